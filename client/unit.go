package client

import (
	"context"
	"net"
	"os/exec"
	"strings"
	"time"

	"banger/api"
)

// awaitUnit waits for the socket of a daemon that systemd is starting or restarting.
func (c *Client) awaitUnit(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.opts.StartTimeout,
		api.Errorf(api.CodeUnreachable, "%s did not begin to serve within %s", c.opts.Unit, c.opts.StartTimeout).WithHint("journalctl -u %s", c.opts.Unit))
	defer cancel()
	for {
		moving := c.unitMoves()
		// Asked again after systemd was: it may have been done in between.
		if conn, err := c.dial(ctx); !notRunning(err) {
			return conn, err
		}
		if !moving {
			return nil, api.Errorf(api.CodeUnreachable, "bangerd is not running (no answer at %s)", c.opts.Socket).
				WithHint("sudo systemctl start %s", c.opts.Unit)
		}
		if err := awaitSocket(ctx, c.opts.Socket, 100*time.Millisecond); err != nil {
			return nil, c.callError(ctx, err)
		}
	}
}

// unitMoves reports whether systemd is at it. A unit that is active has lost its daemon just now, and gets another.
func (c *Client) unitMoves() bool {
	out, _ := exec.Command("systemctl", "show", "--property", "ActiveState", "--value", c.opts.Unit).Output()
	switch strings.TrimSpace(string(out)) {
	case "active", "activating", "deactivating", "reloading":
		return true
	}
	return false
}
