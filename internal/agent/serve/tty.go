package serve

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openTerminal makes a pseudo-terminal: the master never blocks a thread (its reads can be
// ended by a deadline), the slave is a terminal like any other. No path in
// /dev/pts is looked up for it (TIOCGPTPEER, ioctl_tty(2), Linux 4.13).
func openTerminal() (master, slave *os.File, err error) {
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open a terminal: %w", err)
	}
	fail := func(err error) (*os.File, *os.File, error) {
		_ = unix.Close(m)
		return nil, nil, fmt.Errorf("cannot open a terminal: %w", err)
	}
	if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0); err != nil {
		return fail(err)
	}
	s, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(m), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return fail(errno)
	}
	return os.NewFile(uintptr(m), "ptmx"), os.NewFile(s, "pts"), nil
}

// resize tells the terminal its size, and its foreground processes by SIGWINCH.
func resize(tty *os.File, rows, cols int) error {
	raw, err := tty.SyscallConn() // not Fd, which would make it blocking
	if err != nil {
		return err
	}
	size := &unix.Winsize{Row: uint16(min(rows, 0xffff)), Col: uint16(min(cols, 0xffff))}
	ctlErr := raw.Control(func(fd uintptr) { err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) })
	if ctlErr != nil {
		return ctlErr
	}
	return err
}
