package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"banger/api"
)

// ReadyFDFlag names the daemon's flag for the pipe on which it says that it serves
// ("ready"), or why it does not (an api.ErrorBody), in one line.
const ReadyFDFlag = "--ready-fd"

// start starts the daemon and connects to it. Where another client starts it at the same
// time, or an old one is just ending, one of the daemons is told that it is busy, and we
// go by whoever answers in the end.
func (c *Client) start(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.opts.StartTimeout,
		api.Errorf(api.CodeUnreachable, "bangerd did not begin to serve within %s", c.opts.StartTimeout).
			WithHint("see %s", c.opts.DaemonLog))
	defer cancel()
	select {
	case c.starting <- struct{}{}:
		defer func() { <-c.starting }()
	case <-ctx.Done():
		return nil, c.callError(ctx, context.Cause(ctx))
	}
	pause := 25 * time.Millisecond
	for {
		if conn, err := c.dial(ctx); !notRunning(err) {
			return conn, err
		}
		err := c.spawn(ctx)
		if err != nil && api.CodeOf(err) != api.CodeBusy {
			return nil, c.callError(ctx, err)
		}
		if err == nil {
			continue // it serves: dial
		}
		// Another daemon holds the lock: wait for its socket, or for its end.
		if waitErr := awaitSocket(ctx, c.opts.Socket, pause); waitErr != nil {
			return nil, c.callError(ctx, errors.Join(waitErr, err))
		}
		pause = min(2*pause, time.Second)
	}
}

// spawn starts the daemon and returns when it serves, or with the reason why it does not.
func (c *Client) spawn(ctx context.Context) error {
	program, err := c.findProgram()
	if err != nil {
		return err
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return api.Errorf(api.CodeInternal, "cannot start bangerd: %w", err)
	}
	defer ready.Close()
	cmd := exec.Command(program, c.daemonArgs()...) //nolint:gosec // bangerd itself; it outlives ctx on purpose.
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Dir, cmd.Env = "/", daemonEnv(os.Environ())
	// A session of its own: the terminal's Ctrl-C and hang-up are not for the daemon.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var stderr *os.File
	if stderr, err = c.openStderr(); err == nil {
		cmd.Stderr = stderr
		defer stderr.Close()
	}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return api.Errorf(api.CodeUnreachable, "cannot start %s: %w", program, err)
	}
	go cmd.Wait() //nolint:errcheck // only so that a daemon that refuses leaves no zombie.
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := bufio.NewReader(io.LimitReader(ready, 64<<10)).ReadString('\n')
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return readyLine(line, err, c.opts.DaemonLog)
}

func readyLine(line string, err error, logPath string) error {
	line = strings.TrimSpace(line)
	if line == "ready" {
		return nil
	}
	var body api.ErrorBody
	if line != "" && json.Unmarshal([]byte(line), &body) == nil && body.Error.Code != "" {
		return &body.Error
	}
	return api.Errorf(api.CodeUnreachable, "bangerd ended before it served: %w", errors.Join(err, errors.New("no reason given"))).
		WithHint("see %s", logPath)
}

// openStderr opens the daemon's log for what it may say before it opens that itself.
func (c *Client) openStderr() (*os.File, error) {
	return os.OpenFile(c.opts.DaemonLog, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
}

func (c *Client) daemonArgs() []string {
	args := []string{ReadyFDFlag, "3"}
	for _, dir := range [][2]string{
		{"--state-dir", c.opts.StateDir}, {"--runtime-dir", c.opts.RuntimeDir},
		{"--config-dir", c.opts.ConfigDir}, {"--ssh-dir", c.opts.SSHDir},
	} {
		if dir[1] != "" {
			args = append(args, dir[0], dir[1])
		}
	}
	return args
}

// daemonEnv is what of our environment the daemon lives on with: secrets of the shell
// that happened to be first have no business in it.
func daemonEnv(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return !strings.HasPrefix(name, "BANGER_") && !strings.HasPrefix(name, "XDG_") &&
			!strings.HasSuffix(strings.ToLower(name), "_proxy") &&
			!slices.Contains([]string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR"}, name)
	})
}

// findProgram looks for bangerd beside this executable, then in PATH.
func (c *Client) findProgram() (string, error) {
	if c.opts.Program != "" {
		return c.opts.Program, nil
	}
	if self, err := os.Executable(); err == nil {
		if self, err = filepath.EvalSymlinks(self); err == nil {
			beside := filepath.Join(filepath.Dir(self), "bangerd")
			if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return beside, nil
			}
		}
	}
	path, err := exec.LookPath("bangerd")
	if err != nil {
		return "", api.Errorf(api.CodeMissing, "bangerd is not running, and there is no bangerd beside banger nor in PATH").
			WithHint("make build   (in banger's source), or install bangerd beside banger")
	}
	return path, nil
}
