package vmm

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A console log keeps its offsets for ever but only its last part on disk: beyond
// consoleKeep bytes of it, the front becomes a hole.
const (
	consoleKeep  = 8 << 20
	consoleEvery = 5 * time.Second
	// consoleSlack is what may pile up before a hole is worth a system call.
	consoleSlack = 1 << 20
)

// BoundConsole punches holes into a console's log until life ends. Between two looks an emulated serial
// port, at its few MB/s, adds some 20 MB.
func BoundConsole(life context.Context, path string) {
	every := time.NewTicker(consoleEvery)
	defer every.Stop()
	for {
		_ = punchFront(path, consoleKeep) // a file system without holes keeps it all
		select {
		case <-every.C:
		case <-life.Done():
			return
		}
	}
}

// punchFront frees all but the last keep bytes of a file; its size stays.
func punchFront(path string, keep int64) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		return errors.New("the console's log is not a plain file")
	}
	if st.Blocks*512 < keep+consoleSlack || st.Size <= keep {
		return nil
	}
	return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, (st.Size-keep)&^4095)
}
