package rootd

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/host/verb"
)

// beneath opens a path below the state directory: no link is followed, no other file system entered, nothing left upwards.
// The descriptor names the file and opens nothing of it.
func (s *Server) beneath(path string) (fd int, err error) {
	top, err := unix.Openat2(unix.AT_FDCWD, s.o.StateDir, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, fmt.Errorf("cannot open the state directory %s: %w", s.o.StateDir, err)
	}
	defer unix.Close(top)
	// The kernel would allow ".." that stays within: nobody needs it.
	if !fs.ValidPath(path) {
		return -1, refuse("%q is no path below the state directory", path)
	}
	fd, err = unix.Openat2(top, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return -1, refuse("%q below the state directory cannot be used: %w", path, err)
	}
	return fd, nil
}

// handed is the one plain file that the caller has opened and sent along, so that there is no path to be led astray by. It can be read
// and, if write is set, written.
func handed(q *question, write bool) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	if len(q.files) != 1 {
		return nil, st, refuse("it takes one file, not %d", len(q.files))
	}
	f := q.files[0]
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, st, err
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return nil, st, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, st, refuse("it is no plain file")
	case flags&unix.O_PATH != 0 || flags&unix.O_ACCMODE == unix.O_WRONLY || write && flags&unix.O_ACCMODE != unix.O_RDWR:
		return nil, st, refuse("the file is not open for what is to be done with it")
	}
	return f, st, nil
}

func (s *Server) give(_ context.Context, _ *question, a verb.GiveArgs) (any, error) {
	if !s.vmm(a.UID) {
		return nil, refuse("uid %d is no VMM's", a.UID)
	}
	if !strings.HasPrefix(a.Path, "vms/") {
		return nil, refuse("%q is no file of a VM", a.Path)
	}
	fd, err := s.beneath(a.Path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return nil, s.giveFile(fd, a.Path, a.UID)
}

// giveFile lets the group of a VMM's uid do what the caller may with a file of the caller's. path is for people.
func (s *Server) giveFile(fd int, path string, uid int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch kind := st.Mode & unix.S_IFMT; {
	case kind != unix.S_IFREG && kind != unix.S_IFDIR && kind != unix.S_IFSOCK:
		return refuse("%q is neither a file, nor a directory, nor a socket", path)
	case kind != unix.S_IFDIR && st.Nlink != 1:
		return refuse("%q has more than one name", path)
	case int(st.Uid) != s.o.UID || int(st.Gid) != s.o.GID && !s.vmm(int(st.Gid)):
		return refuse("%q belongs to uid %d and gid %d", path, st.Uid, st.Gid)
	}
	if err := unix.Fchownat(fd, "", -1, uid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("cannot give %q to group %d: %w", path, uid, err)
	}
	// What its owner may do, the group may; others what they could before.
	mode := fs.FileMode(st.Mode & 0o707)
	mode |= mode & 0o700 >> 3
	return os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}
