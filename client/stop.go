package client

import (
	"context"
	"errors"
	"net"
	"net/http"

	"golang.org/x/sys/unix"

	"banger/api"
)

func (c *Client) stopDaemon(ctx context.Context) error {
	conn, err := c.dial(ctx)
	if notRunning(err) {
		return api.Errorf(api.CodeUnreachable, "bangerd is not running")
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	process, err := serverOf(conn)
	if err != nil {
		return api.Errorf(api.CodeInternal, "cannot find the daemon's process: %w", err)
	}
	defer unix.Close(process)
	err = c.callNone(ctx, request{method: http.MethodPost, path: "/v1/daemon/stop"})
	if err != nil && !errors.Is(err, errStopping) {
		return err
	}
	// It waits for connections that have said nothing.
	if err := conn.Close(); err != nil {
		return c.callError(ctx, err)
	}
	for {
		fds := []unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}
		switch n, err := unix.Poll(fds, 100); { // in between, ctx may have ended
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return api.Errorf(api.CodeInternal, "cannot wait for the daemon's end: %w", err)
		case ctx.Err() != nil:
			return c.callError(ctx, ctx.Err())
		}
	}
}

// serverOf opens the process that listens at the other end of conn, as a pidfd.
func serverOf(conn net.Conn) (int, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return -1, errors.New("not a unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return -1, err
	}
	pidfd := -1
	var inner error
	err = raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); inner == nil {
			pidfd, inner = unix.PidfdOpen(int(cred.Pid), 0)
		}
	})
	return pidfd, errors.Join(err, inner)
}
