package local

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/host"
)

// files implements host.Files for a daemon that is root, and for one whose VMMs all have its own uid.
type files struct{}

// Give changes the owner, which only root may.
func (files) Give(path string, uid int) error {
	if uid == 0 || uid == os.Geteuid() {
		return nil
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot give %s to uid %d: %w", path, uid, err)
	}
	defer unix.Close(fd)
	// By descriptor: its directory may be the VMM's, and what is given must be what was looked at.
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		switch {
		case st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink != 1:
			err = errors.New("it has more than one name")
		case int(st.Uid) != os.Geteuid() && int(st.Uid) != uid:
			err = fmt.Errorf("it belongs to uid %d", st.Uid)
		default:
			err = unix.Fchownat(fd, "", uid, uid, unix.AT_EMPTY_PATH)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot give %s to uid %d: %w", path, uid, err)
	}
	return nil
}

// OpenMemory leaves it to the number: who may ask the kernel at all may use the calls that are faster.
func (files) OpenMemory(host.Process) (host.Memory, error) { return host.Memory{}, nil }

// OpenedAs looks through the process's descriptors.
func (files) OpenedAs(p host.Process, path string) []string {
	want, err := os.Stat(path)
	if err != nil {
		return nil
	}
	return OpenedBy(p.PID, func(fi os.FileInfo) bool { return os.SameFile(fi, want) })
}

// OpenedBy are the names of those of a process's open files that same tells.
func OpenedBy(pid int, same func(os.FileInfo) bool) []string {
	var names []string
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	fds, _ := os.ReadDir(dir) // one that cannot be read tells of no names
	for _, fd := range fds {
		if fi, err := os.Stat(dir + fd.Name()); err != nil || !same(fi) {
			continue
		}
		if name, err := os.Readlink(dir + fd.Name()); err == nil {
			names = append(names, strings.TrimSuffix(name, " (deleted)"))
		}
	}
	return names
}
