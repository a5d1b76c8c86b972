package workspace

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
)

// shipper writes the tar stream of a repository.
type shipper struct {
	ctx      context.Context
	tw       *tar.Writer
	prefix   string
	readOnly bool
	made     map[string]bool
	now      time.Time
	// dir is the open directory that the last file came from.
	dir     *os.File
	dirName string
	root    *os.File
}

// directory adds a directory and those above it, once each.
func (w *shipper) directory(name string, mode int64) error {
	if name == "." || w.made[name] {
		return nil
	}
	if err := w.directory(path.Dir(name), mode); err != nil {
		return err
	}
	w.made[name] = true
	return w.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path.Join(w.prefix, name) + "/", Mode: mode, ModTime: w.now})
}

// bytes adds a file of ours.
func (w *shipper) bytes(name, text string, when time.Time) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: path.Join(w.prefix, name), Mode: 0o644, Size: int64(len(text)), ModTime: when}
	if err := w.tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.WriteString(w.tw, text)
	return err
}

// copied adds a file of the temporary directory.
func (w *shipper) copied(from, name string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Join(w.prefix, name), Mode: 0o444, Size: st.Size(), ModTime: w.now}); err != nil {
		return err
	}
	_, err = io.Copy(w.tw, f)
	return err
}

var errNotThere = errors.New("not a file any more")

// open opens the directory of a path below the root, through no symbolic link.
func (w *shipper) open(name string) (int, string, error) {
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	if w.dir == nil || w.dirName != dir {
		w.forget()
		how := &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		}
		fd, err := unix.Openat2(int(w.root.Fd()), dir, how)
		for err == unix.EINTR || err == unix.EAGAIN {
			fd, err = unix.Openat2(int(w.root.Fd()), dir, how)
		}
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
			return -1, "", errNotThere
		case err != nil:
			return -1, "", &fs.PathError{Op: "open", Path: dir, Err: err}
		}
		w.dir, w.dirName = os.NewFile(uintptr(fd), dir), dir
	}
	return int(w.dir.Fd()), base, nil
}

func (w *shipper) forget() {
	if w.dir != nil {
		_ = w.dir.Close()
		w.dir = nil
	}
}

// file adds a file or symbolic link as it is on the disk, and returns what an index may remember of it.
func (w *shipper) file(name string) (stat, error) {
	dir, base, err := w.open(name)
	if err != nil {
		return stat{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return stat{}, errNotThere
		}
		return stat{}, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, base, buf)
		if err != nil || n == 0 {
			return stat{}, errNotThere
		}
		h := &tar.Header{Typeflag: tar.TypeSymlink, Name: path.Join(w.prefix, name), Linkname: string(buf[:n]), Mode: 0o777, ModTime: time.Unix(st.Mtim.Sec, 0)}
		if err := w.parents(name); err != nil {
			return stat{}, err
		}
		return stat{st.Mtim.Sec, int64(n)}, w.tw.WriteHeader(h)
	case unix.S_IFREG:
	default:
		return stat{}, errNotThere // git takes it for deleted, too
	}
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return stat{}, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return stat{}, errNotThere
	}
	if err := w.parents(name); err != nil {
		return stat{}, err
	}
	mode := int64(st.Mode & 0o777)
	if w.readOnly {
		mode &^= 0o222
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: path.Join(w.prefix, name), Mode: mode, Size: st.Size, ModTime: time.Unix(st.Mtim.Sec, 0)}
	if err := w.tw.WriteHeader(h); err != nil {
		return stat{}, err
	}
	n, err := io.Copy(w.tw, io.LimitReader(f, st.Size))
	if err != nil {
		return stat{}, err
	}
	if n < st.Size { // it has shrunk meanwhile
		_, err = io.CopyN(w.tw, zeros{}, st.Size-n)
		return stat{}, err
	}
	return stat{st.Mtim.Sec, st.Size}, nil
}

func (w *shipper) parents(name string) error {
	if w.readOnly {
		return w.directory(path.Dir(name), 0o555)
	}
	return w.directory(path.Dir(name), 0o755)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// stream runs write on one end of a pipe and take on the other.
func stream(write func(io.Writer) error, take func(io.Reader) error) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		out := bufio.NewWriterSize(w, 128<<10) // many small files go together
		err := write(out)
		if err == nil {
			err = out.Flush()
		}
		w.CloseWithError(err)
		written <- err
	}()
	err := take(r)
	r.CloseWithError(errTaken)
	if werr := <-written; werr != nil && !errors.Is(werr, errTaken) {
		return fmt.Errorf("cannot read what is to be brought: %w", werr)
	}
	return err
}

var errTaken = api.Errorf(api.CodeCancelled, "the transfer has ended")

// files adds what is on the disk. Returned is what the guest's index may remember: of a file that is as it is
// staged, and was so before reading began.
func (s *snapshot) writeFiles(w *shipper) (map[string]stat, error) {
	staged := make(map[string]entry, len(s.index))
	for _, e := range s.index {
		staged[e.path] = e
	}
	stats := make(map[string]stat, len(s.index))
	for _, e := range s.files {
		if err := w.ctx.Err(); err != nil {
			return nil, context.Cause(w.ctx)
		}
		if e.skip {
			continue
		}
		if e.mode == modeSubmodule {
			if err := w.directory(e.path, 0o755); err != nil {
				return nil, err
			}
			continue
		}
		st, err := w.file(e.path)
		if errors.Is(err, errNotThere) {
			continue // deleted since: git in the guest will say so
		}
		if err != nil {
			return nil, err
		}
		if was := staged[e.path]; was.oid == e.oid && was.mode == e.mode && st.mtime < s.taken.Unix() {
			stats[e.path] = st
		}
	}
	return stats, nil
}

// configQuote lets a value stand in a git configuration file.
func configQuote(v string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(v) + `"`
}
