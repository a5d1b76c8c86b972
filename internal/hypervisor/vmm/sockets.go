package vmm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
)

// maxSocketPath is sun_path without its final zero byte (unix(7)).
const maxSocketPath = 107

// Listen makes a socket that the VMM will accept on. Made here and handed over
// listening, it can be connected to at once: nobody has to wait for its name to appear.
func Listen(path string) (*os.File, error) {
	if len(path) > maxSocketPath {
		return nil, api.Errorf(api.CodeInvalid, "the socket path %s has %d bytes, the kernel allows %d", path, len(path), maxSocketPath).
			WithHint("choose a shorter state directory (XDG_STATE_HOME or BANGER_STATE)")
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// Its directory is 0700; the socket's own mode is the umask's, which the daemon keeps at 077.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	f, err := l.File()
	if err != nil {
		return nil, fmt.Errorf("cannot hand over %s: %w", path, err)
	}
	return f, nil
}

// ListenConnected is Listen, with a connection that the VMM will find waiting. By the kernel's word its peer is this
// very process, which listens first: nobody else can have been reached.
func ListenConnected(path string) (*os.File, net.Conn, error) {
	f, err := Listen(path)
	if err != nil {
		return nil, nil, err
	}
	conn, pid, err := Connect(context.Background(), path)
	if err == nil && pid != os.Getpid() {
		err = fmt.Errorf("process %d listens on %s", pid, path)
		_ = conn.Close()
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, conn, nil
}

// removeStale unlinks the socket of a VMM that is gone, and refuses anything else.
func removeStale(path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case fi.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is in the way and is not a socket", path)
	}
	conn, err := net.Dial("unix", path)
	if err == nil || errors.Is(err, unix.EAGAIN) { // accepted, or waiting in a full queue
		if conn != nil {
			_ = conn.Close()
		}
		return api.Errorf(api.CodeConflict, "a running VMM listens on %s", path)
	}
	return os.Remove(path)
}

// backlogPause is between attempts while a VMM's short queue of waiting clients is full.
const backlogPause = 10 * time.Millisecond

// dial connects to a socket that a VMM listens on.
func dial(ctx context.Context, path string) (net.Conn, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if !errors.Is(err, unix.EAGAIN) {
			return conn, err
		}
		// The kernel tells nobody when there is room again, so this one wait is by time.
		select {
		case <-time.After(backlogPause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Connect dials a socket and says which process listens on it, by the kernel's word.
func Connect(ctx context.Context, path string) (net.Conn, int, error) {
	conn, err := dial(ctx, path)
	if err != nil {
		return nil, 0, err
	}
	var cred *unix.Ucred
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) {
			cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		})
		err = errors.Join(cerr, err)
	}
	if err != nil {
		_ = conn.Close()
		return nil, 0, fmt.Errorf("cannot tell who listens on %s: %w", path, err)
	}
	return conn, int(cred.Pid), nil
}
