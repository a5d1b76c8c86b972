package workspace

import (
	"archive/tar"
	"bytes"
	"context"
	_ "embed" // the script
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
)

//go:embed scripts/list.sh
var scriptList string

//go:embed scripts/remove.sh
var scriptRemove string

// SyncOptions say how a folder is kept the same in a guest.
type SyncOptions struct {
	// Guest is the directory in the guest, absolute or below the user's home; made where it is not there.
	Guest, User string
	// Delete removes from the guest what is not on this side.
	Delete bool
	// Exclude are patterns as of path.Match: with a slash for the whole name below the folder, else for any part of it. What
	// they match is neither brought nor removed.
	Exclude []string
}

// Synced is what one round has done.
type Synced struct {
	Sent    int      `json:"sent"`
	Bytes   int64    `json:"bytes"`
	Removed int      `json:"removed"`
	Skipped []string `json:"skipped"`
}

// file is what two sides compare.
type file struct {
	kind  uint32 // the file type, and for a file whether its owner may execute it
	size  int64
	mtime int64 // seconds; 0 for a directory
}

// Folder is a directory of this side that is brought to a guest, changed files only.
type Folder struct {
	root *os.File
	o    SyncOptions
	// there is what the guest has; nil until it was asked.
	there map[string]file
	guest string
}

// OpenFolder opens a directory of this side.
func OpenFolder(dir string, o SyncOptions) (*Folder, error) {
	for _, p := range o.Exclude {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			return nil, api.Errorf(api.CodeInvalid, "--exclude %q is no pattern", p).WithHint("--exclude '*.o' --exclude node_modules")
		}
	}
	root, err := os.Open(dir)
	if err != nil {
		return nil, api.Errorf(api.CodeNotFound, "cannot read the folder: %w", err)
	}
	if st, err := root.Stat(); err != nil || !st.IsDir() {
		_ = root.Close()
		return nil, api.Errorf(api.CodeInvalid, "%s is no directory", dir).WithHint("banger cp %s NAME:/PATH", dir)
	}
	return &Folder{root: root, o: o}, nil
}

// Close lets go of it.
func (f *Folder) Close() error { return f.root.Close() }

// Sync brings what differs. The guest is asked what it has the first time only.
func (f *Folder) Sync(ctx context.Context, g Guest) (Synced, error) {
	done := Synced{Skipped: []string{}}
	here, err := f.scan(&done)
	if err != nil {
		return done, err
	}
	if f.there == nil {
		if err := f.ask(ctx, g); err != nil {
			return done, err
		}
	}
	var send, gone []string
	for name, is := range here {
		was, ok := f.there[name]
		if was == is && ok {
			continue
		}
		send = append(send, name)
		if ok && f.o.Delete && (was.kind == unix.S_IFDIR) != (is.kind == unix.S_IFDIR) {
			gone = append(gone, name) // nothing takes the place of a directory by itself
		}
	}
	for name := range f.there {
		if _, ok := here[name]; !ok && f.o.Delete && !f.excluded(name) {
			gone = append(gone, name)
		}
	}
	slices.Sort(send)
	slices.Sort(gone)
	if err := f.remove(ctx, g, gone); err != nil {
		return done, err
	}
	for _, name := range gone {
		delete(f.there, name)
	}
	done.Removed = len(gone)
	if len(send) > 0 {
		if err := f.send(ctx, g, send, here, &done); err != nil {
			f.there = nil // it may have got a part
			return done, err
		}
	}
	for _, name := range send {
		f.there[name] = here[name]
	}
	return done, nil
}

// excluded reports whether a name, or a directory above it, matches a pattern.
func (f *Folder) excluded(name string) bool {
	parts := strings.Split(name, "/")
	for _, p := range f.o.Exclude {
		if strings.Contains(p, "/") {
			for n := range parts {
				if ok, _ := path.Match(strings.Trim(p, "/"), strings.Join(parts[:n+1], "/")); ok {
					return true
				}
			}
			continue
		}
		for _, part := range parts {
			if ok, _ := path.Match(p, part); ok {
				return true
			}
		}
	}
	return false
}

// scan lists what is on this side, no symbolic link followed.
func (f *Folder) scan(done *Synced) (map[string]file, error) {
	list := map[string]file{}
	top := "/proc/self/fd/" + strconv.Itoa(int(f.root.Fd())) + "/"
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		name := strings.TrimPrefix(p, top)
		if name == "" || name == p {
			return err
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if f.excluded(name) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // gone meanwhile
		}
		st, ok := info.Sys().(*unixStat)
		if !ok {
			return nil
		}
		is, ok := compared(st.Mode, st.Size, st.Mtim.Sec)
		if !ok {
			done.Skipped = append(done.Skipped, name)
			return nil
		}
		list[name] = is
		return nil
	})
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "cannot read the folder: %w", err)
	}
	return list, nil
}

func compared(mode uint32, size, mtime int64) (file, bool) {
	switch kind := mode & unix.S_IFMT; kind {
	case unix.S_IFREG:
		return file{kind | mode&0o100, size, mtime}, true
	case unix.S_IFLNK:
		return file{kind, size, mtime}, true
	case unix.S_IFDIR:
		return file{kind: kind}, true
	}
	return file{}, false
}

// ask has the guest list what it has. A name with a line's end in it is never found equal, and never removed.
func (f *Folder) ask(ctx context.Context, g Guest) error {
	where, err := GuestPath(f.o.Guest)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "%q is no place for a folder in a guest", f.o.Guest).WithHint("banger vm sync NAME DIR:/root/DIR")
	}
	var out bytes.Buffer
	if _, err := script(ctx, g, f.o.User, scriptList, nil, &out, where); err != nil {
		return err
	}
	f.there = map[string]file{}
	for n, l := range strings.Split(out.String(), "\n") {
		if n == 0 {
			f.guest = path.Clean(l)
			continue
		}
		words := strings.SplitN(l, " ", 4)
		if len(words) != 4 {
			continue
		}
		mode, err1 := strconv.ParseUint(words[0], 16, 32)
		size, err2 := strconv.ParseInt(words[1], 10, 64)
		mtime, err3 := strconv.ParseInt(words[2], 10, 64)
		name, below := strings.CutPrefix(words[3], "./")
		if is, ok := compared(uint32(mode), size, mtime); below && errors.Join(err1, err2, err3) == nil {
			if !ok {
				is = file{kind: uint32(mode)}
			}
			f.there[name] = is
		}
	}
	if !path.IsAbs(f.guest) {
		return api.Errorf(api.CodeInternal, "the guest says nothing of use about %s", f.o.Guest)
	}
	return nil
}

func (f *Folder) remove(ctx context.Context, g Guest, names []string) error {
	if len(names) == 0 {
		return nil
	}
	_, err := script(ctx, g, f.o.User, scriptRemove, strings.NewReader(strings.Join(names, "\x00")+"\x00"), nil, f.guest)
	return err
}

func (f *Folder) send(ctx context.Context, g Guest, names []string, here map[string]file, done *Synced) error {
	return stream(func(out io.Writer) error {
		w := &shipper{ctx: ctx, tw: tar.NewWriter(out), made: map[string]bool{}, root: f.root, now: time.Now()}
		defer w.forget()
		for name, is := range f.there {
			if is.kind == unix.S_IFDIR {
				w.made[name] = true
			}
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if here[name].kind == unix.S_IFDIR {
				if err := w.directory(name, 0o755); err != nil {
					return err
				}
				continue
			}
			st, err := w.file(name)
			if errors.Is(err, errNotThere) {
				continue
			}
			if err != nil {
				return err
			}
			done.Sent++
			done.Bytes += st.size
		}
		return w.tw.Close()
	}, func(in io.Reader) error { return g.Put(ctx, f.guest, f.o.User, in) })
}
