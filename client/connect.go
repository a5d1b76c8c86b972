package client

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"syscall"

	"banger/api"
)

// maxSocketPath is what sockaddr_un has room for on Linux, less the final NUL.
const maxSocketPath = 107

// connect opens a connection to the daemon, and starts the daemon if it does not run.
func (c *Client) connect(ctx context.Context) (net.Conn, error) {
	conn, err := c.dial(ctx)
	if !notRunning(err) {
		return conn, err
	}
	if c.opts.Unit != "" {
		// A user whose own systemd does not run has the daemon started by commands, as without units.
		if conn, err := c.awaitUnit(ctx); !c.opts.UserUnit || !errors.Is(err, errNoSystemd) {
			return conn, err
		}
	}
	if c.opts.NoStart {
		return nil, api.Errorf(api.CodeUnreachable, "bangerd is not running (no answer at %s)", c.opts.Socket).
			WithHint("any other banger command starts it")
	}
	return c.start(ctx)
}

// dial opens a connection to a daemon that runs; see notRunning for the error if none does.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	if len(c.opts.Socket) > maxSocketPath {
		return nil, api.Errorf(api.CodeInvalid, "the socket's path %s has %d bytes, a socket's path may have %d",
			c.opts.Socket, len(c.opts.Socket), maxSocketPath).WithHint("BANGER_RUNTIME_DIR=/a/shorter/directory")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.opts.Socket)
	switch {
	case err == nil, notRunning(err):
		return conn, err
	case errors.Is(err, fs.ErrPermission):
		return nil, api.Errorf(api.CodeDenied, "the daemon at %s belongs to another user", c.opts.Socket).
			WithHint("run banger as that user (root: sudo banger …), or unset BANGER_RUNTIME_DIR and BANGER_STATE_DIR")
	}
	return nil, c.callError(ctx, err)
}

// notRunning reports that nobody listens: no socket, or one that a dead daemon left.
func notRunning(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}
