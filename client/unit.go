package client

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"strings"
	"time"

	"banger/api"
)

// errNoSystemd says that systemd cannot be asked: a user's own one runs in a session or by lingering only.
var errNoSystemd = errors.New("systemd does not answer")

// awaitUnit waits for the socket of a daemon that systemd is starting or restarting.
func (c *Client) awaitUnit(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.opts.StartTimeout,
		api.Errorf(api.CodeUnreachable, "%s did not begin to serve within %s", c.opts.Unit, c.opts.StartTimeout).
			WithHint("journalctl %s-u %s", c.userFlag(), c.opts.Unit))
	defer cancel()
	for {
		moving, err := c.unitMoves()
		if err != nil {
			return nil, err
		}
		// Asked again after systemd was: it may have been done in between.
		if conn, err := c.dial(ctx); !notRunning(err) {
			return conn, err
		}
		if !moving {
			sudo := "sudo "
			if c.opts.UserUnit {
				sudo = ""
			}
			return nil, api.Errorf(api.CodeUnreachable, "bangerd is not running (no answer at %s)", c.opts.Socket).
				WithHint("%ssystemctl %sstart %s", sudo, c.userFlag(), c.opts.Unit)
		}
		if err := awaitSocket(ctx, c.opts.Socket, 100*time.Millisecond); err != nil {
			return nil, c.callError(ctx, err)
		}
	}
}

// userFlag is between systemctl and its verb.
func (c *Client) userFlag() string {
	if c.opts.UserUnit {
		return "--user "
	}
	return ""
}

// unitMoves reports whether systemd is at it. A unit that is active has lost its daemon just now, and gets another; one with a job is
// about to be started, as the host boots.
func (c *Client) unitMoves() (bool, error) {
	args := []string{"show", "--property", "ActiveState,Job", c.opts.Unit}
	if c.opts.UserUnit {
		args = append([]string{"--user"}, args...)
	}
	out, err := exec.Command("systemctl", args...).Output()
	if err != nil {
		return false, errNoSystemd
	}
	return moves(string(out)), nil
}

// moves reads what systemctl show says: NAME=VALUE in each line; there is no line Job where there is no job.
func moves(properties string) bool {
	for line := range strings.Lines(properties) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch {
		case name == "Job" && value != "" && value != "0":
			return true
		case name == "ActiveState" && (value == "active" || value == "activating" || value == "deactivating" || value == "reloading"):
			return true
		}
	}
	return false
}
