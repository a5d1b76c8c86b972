package host

import (
	"fmt"
	"os"
	"syscall"
)

// Memory is a process's memory as three open files of /proc; the zero Memory is for who may open them by name.
type Memory struct{ Maps, PageMap, Mem *os.File }

// Close closes all of it.
func (m Memory) Close() {
	for _, f := range []*os.File{m.Maps, m.PageMap, m.Mem} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// Files hands files over to VMMs that have uids of their own, and opens what of those processes only root may.
type Files interface {
	// Give lets the VMM with this uid (and the group of the same number) use a file or directory of the state directory that is
	// the daemon's. Where the daemon is root it becomes the uid's own; else it stays the daemon's, and the uid's group gets what its owner
	// may do: see VMMOf. It is not followed where it is a link. For the daemon's own uid nothing is done.
	Give(path string, uid int) error
	// OpenMemory opens a VMM's memory; the zero Memory where it can be opened by the process's number.
	OpenMemory(p Process) (Memory, error)
	// OpenedAs are the names by which a VMM has opened the file that path is now; empty where it has not.
	OpenedAs(p Process, path string) []string
}

// VMMOf tells which uid a directory was given to: 0 where it is the daemon's own alone.
func VMMOf(dir string) (uid int, err error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(dir, &st); err != nil {
		return 0, fmt.Errorf("cannot look at %s: %w", dir, err)
	}
	switch me := os.Geteuid(); {
	case int(st.Uid) != me:
		return int(st.Uid), nil
	case me != 0 && int(st.Gid) != os.Getegid() && st.Mode&0o070 != 0:
		return int(st.Gid), nil
	}
	return 0, nil
}
