package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/host"
)

// Alive reports whether exactly this process still runs; a zombie does not.
func (ps processes) Alive(p host.Process) bool {
	fd, err := openPidfd(p)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return !ended(fd)
}

// Identify fills in the start time of a running pid.
func (ps processes) Identify(pid int) (host.Process, bool) {
	st, err := readStat(pid)
	if err != nil || st.state == 'Z' || st.state == 'X' {
		return host.Process{}, false
	}
	return host.Process{PID: pid, StartTime: st.start}, true
}

// Wait returns when the process has ended, whoever's child it is. It holds no
// thread: the pidfd waits in Go's poller.
func (ps processes) Wait(ctx context.Context, p host.Process) error {
	if c, ok := ps.children.find(p); ok {
		select {
		case <-c.reaped:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	fd, err := openPidfd(p)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot watch process %d: %w", p.PID, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Read(func(fd uintptr) bool { return ended(int(fd)) })
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Signal sends by pidfd; a process that is gone is no error.
func (ps processes) Signal(p host.Process, s syscall.Signal) error {
	fd, err := openPidfd(p)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err == nil {
		err = unix.PidfdSendSignal(fd, s, nil, 0)
		unix.Close(fd)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot signal process %d: %w", p.PID, err)
	}
	return nil
}

// SetOOMScore writes by the pid while a pidfd keeps it from passing to another process.
func (ps processes) SetOOMScore(p host.Process, adj int) error {
	fd, err := openPidfd(p)
	if err != nil {
		return fmt.Errorf("cannot set oom_score_adj of process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	return setOOMScore(p.PID, adj)
}

// setOOMScore leaves it undone where we may not: lowering it needs CAP_SYS_RESOURCE, and without that the process is
// only a more likely victim.
func setOOMScore(pid, adj int) error {
	err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), fmt.Appendf(nil, "%d", adj), 0)
	if err != nil && !errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("cannot set oom_score_adj: %w", err)
	}
	return nil
}

// openPidfd pins a process; ESRCH when the pid is free or names another process.
func openPidfd(p host.Process) (int, error) {
	if p.PID <= 0 {
		return -1, unix.ESRCH
	}
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.EINVAL) {
		err = unix.ESRCH // the pid is a thread's, so not the process that was recorded
	}
	if err != nil {
		return -1, err
	}
	// Read after opening: now the pid cannot pass to another process unseen.
	st, err := readStat(p.PID)
	if err != nil || st.start != p.StartTime {
		unix.Close(fd)
		return -1, unix.ESRCH
	}
	return fd, nil
}

// ended reports whether all threads of the process behind a pidfd are gone.
func ended(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n > 0
		}
	}
}
