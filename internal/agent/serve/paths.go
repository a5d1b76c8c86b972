package serve

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"banger/api"
)

// guestPath is the path parameter, made absolute: a relative one starts at root's home.
func guestPath(r *http.Request) (string, error) {
	p := r.URL.Query().Get("path")
	if p == "" || strings.ContainsRune(p, 0) {
		return "", api.Errorf(api.CodeInvalid, "a path in the guest is needed")
	}
	if !path.IsAbs(p) {
		p = "/root/" + p
	}
	return p, nil
}

// open opens a path of the guest as the guest itself would resolve it: symbolic links
// count from Root, and nothing leads out of it.
func (s *Server) open(name string, flags int, mode uint32) (*os.File, error) {
	root, err := unix.Open(s.o.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: s.o.Root, Err: err}
	}
	defer unix.Close(root)
	how := &unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for range 100 {
		fd, err := unix.Openat2(root, name, how)
		if err == unix.EINTR || err == unix.EAGAIN { // EAGAIN: something was renamed meanwhile
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: unix.EAGAIN}
}

// fileError gives an error of the file system its code.
func fileError(doing, name string, err error) error {
	var e *api.Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	code := api.CodeInternal
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return api.Errorf(api.CodeNotFound, "cannot %s %s: no such file or directory in the guest", doing, name)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		code = api.CodeDenied
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		code = api.CodeExhausted
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ELOOP),
		errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL):
		code = api.CodeInvalid
	case errors.Is(err, unix.ETXTBSY), errors.Is(err, unix.EBUSY):
		code = api.CodeBusy
	}
	return api.Errorf(code, "cannot %s %s: %w", doing, name, errnoOf(err))
}

// maxLinks is how many symbolic links are followed, as the kernel does.
const maxLinks = 40

// parentOf opens the directory that name's file is in, symbolic links followed to the
// end. The last component need not exist.
func (s *Server) parentOf(name string) (dir *os.File, base string, err error) {
	for range maxLinks {
		parent, base := path.Split(path.Clean(name))
		if base == "" || base == "." || base == ".." {
			return nil, "", unix.EISDIR
		}
		dir, err := s.open(parent, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, "", err
		}
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(dir.Fd()), base, buf)
		if err != nil { // no symbolic link, or nothing there
			return dir, base, nil //nolint:nilerr // as wanted
		}
		_ = dir.Close()
		if target := string(buf[:n]); path.IsAbs(target) {
			name = target
		} else {
			name = path.Join(parent, target)
		}
	}
	return nil, "", unix.ELOOP
}
