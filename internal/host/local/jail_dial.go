package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/host"
)

// dialPause is between attempts while a socket has its name but nobody listens yet, or its queue is full: neither can be awaited.
const dialPause = 2 * time.Millisecond

// DialJailed waits for the socket's name to appear, by watching the directory.
func (js jails) DialJailed(ctx context.Context, j host.Jail, name string, p host.Process) (net.Conn, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	dir, err := openJail(j)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	conn, err := dialOnce(ctx, dir, name, p)
	if !notYet(err) {
		return conn, err
	}
	w, err := watchNames(dir)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		if js.processes.Wait(ctx, p) == nil {
			cancel(errEnded)
		}
	}()
	defer context.AfterFunc(ctx, func() { _ = w.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		conn, err := dialOnce(ctx, dir, name, p)
		if !notYet(err) {
			return conn, err
		}
		if errors.Is(err, unix.ENOENT) {
			_, err = w.Read(make([]byte, 4096))
		} else {
			select {
			case <-time.After(dialPause):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil && !notYet(err) {
			return nil, err
		}
	}
}

var errEnded = errors.New("the process has ended")

// notYet is true for what passes while a VMM begins to listen.
func notYet(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EAGAIN)
}

func watchNames(dir *os.File) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot watch a jail: %w", err)
	}
	if _, err := unix.InotifyAddWatch(fd, byFD(dir), unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot watch a jail: %w", err)
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// dialOnce connects, and asks the kernel who has made the socket. No link is followed to it: that could lead to somebody else's.
func dialOnce(ctx context.Context, dir *os.File, name string, p host.Process) (net.Conn, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: within})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", fmt.Sprint("/proc/self/fd/", fd))
	if err != nil {
		return nil, err
	}
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(cerr, err); err == nil && int(cred.Pid) != p.PID {
		err = fmt.Errorf("process %d listens in the jail of process %d", cred.Pid, p.PID)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}
