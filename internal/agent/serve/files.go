package serve

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
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

// getFile sends one regular file.
func (s *Server) getFile(w http.ResponseWriter, r *http.Request) error {
	name, err := guestPath(r)
	if err != nil {
		return err
	}
	f, err := s.open(name, unix.O_RDONLY|unix.O_NONBLOCK, 0) // O_NONBLOCK: do not wait at a FIFO
	if err != nil {
		return fileError("read", name, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fileError("read", name, err)
	}
	if !st.Mode().IsRegular() {
		return api.Errorf(api.CodeInvalid, "%s is not a regular file", name)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set(agentapi.FileModeHeader, fmt.Sprintf("%04o", unixMode(st.Mode())))
	var body io.Reader = f
	if st.Size() > 0 { // the kernel's own files say 0 and have contents all the same
		w.Header().Set("Content-Length", strconv.FormatInt(st.Size(), 10))
		body = io.LimitReader(f, st.Size())
	}
	n, err := io.Copy(w, body)
	if err != nil || n < st.Size() {
		panic(http.ErrAbortHandler) // the only way left to say that this is not all
	}
	return nil
}

func unixMode(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	for bit, flag := range map[fs.FileMode]uint32{fs.ModeSetuid: unix.S_ISUID, fs.ModeSetgid: unix.S_ISGID, fs.ModeSticky: unix.S_ISVTX} {
		if m&bit != 0 {
			out |= flag
		}
	}
	return out
}

// putFile writes one file beside its place and renames it there, so that nobody sees half
// of it. Without mode and user a file that is replaced hands them on.
func (s *Server) putFile(w http.ResponseWriter, r *http.Request) error {
	name, err := guestPath(r)
	if err != nil {
		return err
	}
	attr := fileAttr{mode: 0o644}
	if m := r.URL.Query().Get("mode"); m != "" {
		n, err := strconv.ParseUint(m, 8, 12)
		if err != nil {
			return api.Errorf(api.CodeInvalid, "the mode %q is not octal, at most 7777", m)
		}
		attr.mode, attr.modeSet = uint32(n), true
	}
	if u := r.URL.Query().Get("user"); u != "" {
		if attr.uid, attr.gid, err = s.place.owner(u); err != nil {
			return err
		}
		attr.userSet = true
	}
	if strings.HasSuffix(name, "/") {
		return api.Errorf(api.CodeInvalid, "cannot write %s: a file's name does not end in a slash", name)
	}
	if err := s.replace(name, attr, r.Body); err != nil {
		return fileError("write", name, err)
	}
	return ok(w, struct{}{})
}

type fileAttr struct {
	mode     uint32
	uid, gid int
	// modeSet and userSet tell that the caller chose them.
	modeSet, userSet bool
}

// replace puts a file in place at name; where that is a symbolic link, at what it points to.
func (s *Server) replace(name string, attr fileAttr, body io.Reader) error {
	dir, base, err := s.parentOf(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	fd := int(dir.Fd())
	var old unix.Stat_t
	switch err := unix.Fstatat(fd, base, &old, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil && old.Mode&unix.S_IFMT == unix.S_IFDIR:
		return unix.EISDIR
	case err == nil && old.Mode&unix.S_IFMT != unix.S_IFREG:
		return api.Errorf(api.CodeInvalid, "cannot write %s: it is not a regular file", name)
	case err == nil:
		if !attr.modeSet {
			attr.mode = old.Mode & 0o7777
		}
		if !attr.userSet {
			attr.uid, attr.gid, attr.userSet = int(old.Uid), int(old.Gid), os.Geteuid() == 0
		}
	case !errors.Is(err, unix.ENOENT):
		return err
	}
	temp := ".banger-" + rand.Text()[:12]
	n, err := unix.Openat(fd, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(n), temp)
	defer f.Close()
	err = fill(f, attr, s.place.own(), body)
	if err == nil {
		err = unix.Renameat(fd, temp, fd, base)
	}
	if err != nil {
		_ = unix.Unlinkat(fd, temp, 0)
	}
	return err
}

func fill(f *os.File, attr fileAttr, own bool, body io.Reader) error {
	if _, err := io.Copy(f, body); err != nil {
		return err
	}
	if attr.userSet && own {
		if err := f.Chown(attr.uid, attr.gid); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(int(f.Fd()), attr.mode); err != nil { // after chown, which clears setuid
		return err
	}
	return f.Close()
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
			return dir, base, nil
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

// stat describes a path, symbolic links followed; one that leads nowhere is a symlink.
func (s *Server) stat(w http.ResponseWriter, r *http.Request) error {
	name, err := guestPath(r)
	if err != nil {
		return err
	}
	f, err := s.open(name, unix.O_PATH, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		f, err = s.open(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return fileError("look at", name, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fileError("look at", name, err)
	}
	kind := "other"
	switch {
	case st.Mode().IsRegular():
		kind = "file"
	case st.IsDir():
		kind = "dir"
	case st.Mode()&fs.ModeSymlink != 0:
		kind = "symlink"
	}
	return ok(w, api.FileStat{Path: path.Clean(name), Kind: kind, Mode: unixMode(st.Mode()), SizeBytes: st.Size()})
}
