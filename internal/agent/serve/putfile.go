package serve

import (
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"banger/api"
)

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
