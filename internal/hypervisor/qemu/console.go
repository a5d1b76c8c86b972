package qemu

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/hypervisor"
)

// A console log keeps its offsets for ever but only its last part on disk: beyond
// consoleKeep bytes of it, the front becomes a hole.
const (
	consoleKeep  = 8 << 20
	consoleEvery = 5 * time.Second
	// consoleSlack is what may pile up before a hole is worth a system call.
	consoleSlack = 1 << 20
)

// makeConsole makes the console's log where QEMU would make one that we cannot open: it runs under a uid of its own, and we are
// not root.
func (h *Hypervisor) makeConsole(m *hypervisor.Machine) error {
	if me := os.Geteuid(); me == 0 || m.UID == 0 || m.UID == me {
		return nil
	}
	f, err := os.OpenFile(consoleLog(m), os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), h.host.Give(consoleLog(m), m.UID))
}

// boundConsole punches holes while the VMM lives. Between two looks an emulated serial
// port, at its few MB/s, adds some 20 MB.
func (i *instance) boundConsole() {
	every := time.NewTicker(consoleEvery)
	defer every.Stop()
	for {
		_ = punchFront(consoleLog(&i.m), consoleKeep) // a file system without holes keeps it all
		select {
		case <-every.C:
		case <-i.life.Done():
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
