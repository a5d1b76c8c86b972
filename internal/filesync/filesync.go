// Package filesync reads the files of this host that go into guests, as [[file_sync]] names them. It runs as the daemon, and so
// reads as the user whom the daemon belongs to, and only below the home of that user: no name leads out of there, and
// none through a symbolic link, which others may have planted. What it reads is kept nowhere and told to nobody but the
// guest; what it says names files, and nothing that is in them. vm may import it.
package filesync

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"

	"golang.org/x/sys/unix"

	"banger/api/agentapi"
	"banger/internal/config"
)

// What is put into a guest at each of its starts is configuration and credentials: more than this is left out, with a warning.
const (
	maxFile    = 2 << 20
	maxBytes   = 16 << 20
	maxEntries = 4096
)

// maxWarnings is how many there are of one entry; the last says how many more there would be.
const maxWarnings = 8

// Read reads all entries. What is missing, or cannot be read, is left out and warned of.
func Read(home string, entries []config.FileSync) (files []agentapi.File, warnings []string) {
	if len(entries) == 0 {
		return nil, nil
	}
	top, err := os.Open(home)
	if err != nil {
		return nil, []string{fmt.Sprintf("file_sync: cannot open the home directory: %v", err)}
	}
	defer top.Close()
	left := room{maxBytes, maxEntries}
	for _, e := range entries {
		r := reader{entry: e, room: left}
		if err := r.read(top); err != nil {
			warnings = append(warnings, fmt.Sprintf("file_sync of ~/%s: %v", e.Host, err))
			continue
		}
		files, warnings, left = append(files, r.files...), append(warnings, r.said()...), r.room
	}
	return files, warnings
}

// room is what there is left for all entries.
type room struct{ bytes, entries int }

// reader reads one entry, all or nothing of it but for what it skips.
type reader struct {
	entry   config.FileSync
	room    room
	files   []agentapi.File
	skipped []string
}

func (r *reader) said() []string {
	var out []string
	for n, s := range r.skipped {
		if n == maxWarnings-1 && len(r.skipped) > maxWarnings {
			return append(out, fmt.Sprintf("file_sync of ~/%s: %d more were skipped", r.entry.Host, len(r.skipped)-n))
		}
		out = append(out, fmt.Sprintf("file_sync of ~/%s: %s", r.entry.Host, s))
	}
	return out
}

func (r *reader) skip(name, why string) {
	r.skipped = append(r.skipped, fmt.Sprintf("%s is skipped: %s", name, why))
}

var (
	errTooMuch = fmt.Errorf("it is left out, since all that is put into a guest at its start may have %d MiB and %d files: banger sync carries more", maxBytes>>20, maxEntries)
	errLink    = errors.New("it is a symbolic link, or lies behind one, which is not followed: name what it points to")
	errMissing = errors.New("there is no such file on this host")
)

func (r *reader) read(home *os.File) error {
	fd, err := unix.Openat2(int(home.Fd()), r.entry.Host, &unix.OpenHow{
		// O_NONBLOCK: it may be a FIFO.
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return errMissing
	case errors.Is(err, unix.ELOOP):
		return errLink
	case errors.Is(err, unix.ENOSYS):
		return errors.New("this host's kernel cannot keep a read below a directory; Linux 5.6 can (openat2)")
	case err != nil:
		return fmt.Errorf("it cannot be read: %w", err)
	}
	f := os.NewFile(uintptr(fd), r.entry.Host)
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("it cannot be read: %w", err)
	}
	if st.IsDir() {
		return r.dir(f, r.entry.Guest)
	}
	return r.file(f, st, r.entry.Guest)
}

func (r *reader) dir(d *os.File, guest string) error {
	if err := r.add(agentapi.File{Path: guest, Dir: true, Mode: uint32(r.dirMode())}); err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("%s cannot be read: %w", d.Name(), err)
	}
	sort.Strings(names)
	for _, name := range names {
		if err := r.within(d, name, path.Join(guest, name)); err != nil {
			return err
		}
	}
	return nil
}

// within reads a member of a directory.
func (r *reader) within(d *os.File, name, guest string) error {
	full := path.Join(d.Name(), name)
	fd, err := unix.Openat(int(d.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT): // gone by now
		return nil
	case errors.Is(err, unix.ELOOP):
		r.skip(full, "it is a symbolic link")
		return nil
	case err != nil: // a socket cannot even be opened
		r.skip(full, err.Error())
		return nil
	}
	f := os.NewFile(uintptr(fd), full)
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		r.skip(full, err.Error())
		return nil
	case st.IsDir():
		return r.dir(f, guest)
	case path.Base(guest) == "authorized_keys" && path.Base(path.Dir(guest)) == ".ssh":
		r.skip(full, "banger keeps that file in guests itself")
		return nil
	}
	err = r.file(f, st, guest)
	if err != nil && !errors.Is(err, errTooMuch) {
		r.skip(full, err.Error())
		return nil
	}
	return err
}

func (r *reader) file(f *os.File, st fs.FileInfo, guest string) error {
	if !st.Mode().IsRegular() {
		return errors.New("it is neither a file nor a directory")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return fmt.Errorf("it cannot be read: %w", err)
	}
	if len(data) > maxFile {
		return fmt.Errorf("it has more than %d MiB", maxFile>>20)
	}
	return r.add(agentapi.File{Path: guest, Mode: uint32(r.mode(st)), Data: data})
}

// mode is that of a file in the guest.
func (r *reader) mode(st fs.FileInfo) fs.FileMode {
	switch {
	case r.entry.Mode != 0:
		return r.entry.Mode
	case st.Mode()&0o100 != 0:
		return 0o700
	}
	return 0o600
}

// dirMode lets search a directory whoever may read its files.
func (r *reader) dirMode() fs.FileMode {
	m := fs.FileMode(0o600)
	if r.entry.Mode != 0 {
		m = r.entry.Mode | 0o600
	}
	return m | m>>2&0o111
}

func (r *reader) add(f agentapi.File) error {
	r.room.bytes -= len(f.Data)
	r.room.entries--
	if r.room.bytes < 0 || r.room.entries < 0 {
		return errTooMuch
	}
	r.files = append(r.files, f)
	return nil
}

// Share divides files into those that go along with a message, up to budget bytes, and batches of up to batch bytes for the others.
// Their order stays.
func Share(files []agentapi.File, budget, batch int) (along []agentapi.File, rest [][]agentapi.File) {
	for len(files) > 0 {
		n, size := 0, 0
		for n < len(files) {
			size += len(files[n].Path) + len(files[n].Data) + overhead
			if size > budget && (n > 0 || len(rest) == 0 && along == nil) {
				break
			}
			n++
		}
		if along == nil && rest == nil {
			along, budget = files[:n:n], batch
			if n == 0 {
				along = []agentapi.File{}
			}
		} else {
			rest = append(rest, files[:n:n])
		}
		files = files[n:]
	}
	return along, rest
}

// overhead is what a file takes in a message beyond its name and its bytes.
const overhead = 32
