package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"banger/api"
	"banger/client"
)

// execOptions are the flags of every command that runs something in a guest, spelled the same everywhere.
type execOptions struct {
	interactive, tty bool
	env, envFiles    []string
	workdir, user    string
	timeout          durationFlag
}

func (o *execOptions) flags(f *pflag.FlagSet) {
	f.BoolVarP(&o.interactive, "interactive", "i", false, "give the command banger's standard input")
	f.BoolVarP(&o.tty, "tty", "t", false, "give the command a terminal")
	f.StringArrayVarP(&o.env, "env", "e", nil, "set a variable: `K=V`, or K for the value it has here")
	f.StringArrayVar(&o.envFiles, "env-file", nil, "set the variables in a `FILE`, one a line")
	f.StringVarP(&o.workdir, "workdir", "w", "", "absolute `DIR` in the guest to begin in (default: the user's home)")
	f.StringVarP(&o.user, "user", "u", "", "`USER` in the guest, optionally USER:GROUP (default: root)")
	f.Var(&o.timeout, "timeout", "end the command after this long: TERM, then KILL; exit code 124")
}

// spec is what is asked of the guest. Without a command it is the user's login shell.
func (o *execOptions) spec(a *app, argv []string) (api.ExecSpec, error) {
	env, err := a.environment(o.env, o.envFiles)
	if err != nil {
		return api.ExecSpec{}, err
	}
	if len(argv) == 0 {
		argv = loginShell()
	}
	spec := api.ExecSpec{
		Argv: argv, Env: env, Cwd: o.workdir, User: o.user,
		TTY: o.tty, Stdin: o.interactive, TimeoutMS: o.timeout.milliseconds(),
	}
	if _, ok := terminal(a.In); o.tty && o.interactive && !ok {
		return spec, api.Errorf(api.CodeInvalid, "-t with -i needs a terminal, and standard input is none").WithHint("leave out -t to pipe data to the command")
	}
	if o.tty {
		spec.Rows, spec.Cols = a.windowSize()
		if t := a.env["TERM"]; t != "" && !hasVariable(env, "TERM") {
			spec.Env = append(spec.Env, "TERM="+t)
		}
	}
	return spec, spec.Validate()
}

// loginShell is the shell that the guest's user database gives the user; the agent puts it into SHELL.
func loginShell() []string {
	return []string{"/bin/sh", "-c", `exec "${SHELL:-/bin/sh}" -l`}
}

func hasVariable(env []string, name string) bool {
	for _, e := range env {
		if len(e) > len(name) && e[:len(name)] == name && e[len(name)] == '=' {
			return true
		}
	}
	return false
}

// onTerminal reports whether a person sits at both ends: what makes `shell` and a bare `run` interactive.
func (a *app) onTerminal() bool { return isTerminal(a.In) && isTerminal(a.Out) }

func (a *app) windowSize() (rows, cols int) {
	for _, s := range []any{a.Out, a.In, a.Err} {
		if fd, ok := terminal(s); ok {
			if w, h, err := term.GetSize(fd); err == nil && w > 0 && h > 0 {
				return h, w
			}
		}
	}
	return 24, 80
}

// manySignals is how often Ctrl-C must come before banger gives up on a command that ignores it.
const manySignals = 3

// exec runs a command in a guest with this process's streams, and returns its exit code.
// While it runs, signals to banger are signals to the command.
func (a *app) exec(c *client.Client, ref string, spec api.ExecSpec) (int, error) {
	defer a.sayWaking(c, ref)()
	if a.json {
		return a.execJSON(c, ref, spec)
	}
	ctx, disconnect := context.WithCancel(a.hard)
	defer disconnect()
	control := make(chan api.Control, 64)
	send := func(m api.Control) {
		select {
		case control <- m:
		default: // nobody takes them up any more
		}
	}
	var count, last atomic.Int32
	release := a.signals.take(func(sig syscall.Signal) {
		last.Store(int32(sig)) //nolint:gosec // signals are below 65
		if count.Add(1) >= manySignals {
			disconnect()
			return
		}
		send(api.Control{Type: api.ControlSignal, Signal: signalName(sig)})
	})
	defer release()
	if a.soft.Err() != nil {
		return 0, a.soft.Err() // it came just before the handler
	}
	restore, err := a.rawTerminal(spec, send)
	if err != nil {
		return 0, err
	}
	result, err := c.Exec(ctx, ref, spec, client.ExecIO{Stdin: a.In, Stdout: a.Out, Stderr: a.Err, Control: control})
	restore()
	if err != nil && count.Load() >= manySignals {
		a.note("banger: gave up waiting for the command")
		return 128 + int(last.Load()), nil
	}
	return execCode(result, err)
}

// execCode is the exit code of a command that ran, or could not be run by the guest's kernel.
func execCode(result api.ExecResult, err error) (int, error) {
	switch {
	case err == nil:
		return result.ExitCode, nil
	case errors.Is(err, syscall.EPIPE):
		return 128 + int(syscall.SIGPIPE), nil
	}
	return 0, err
}

// rawTerminal makes the caller's terminal a mere wire to the guest's, and tells the guest
// of every change of the window. The returned function puts things back as they were.
func (a *app) rawTerminal(spec api.ExecSpec, send func(api.Control)) (func(), error) {
	fd, ok := terminal(a.In)
	if !spec.TTY {
		return func() {}, nil
	}
	restore := func() {}
	if ok && spec.Stdin {
		old, err := term.MakeRaw(fd)
		if err != nil {
			return nil, api.Errorf(api.CodeInternal, "cannot set up the terminal: %w", err)
		}
		restore = func() { _ = term.Restore(fd, old) } // nothing better can be done about it at the end
	}
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	go func() {
		for range changes {
			rows, cols := a.windowSize()
			send(api.Control{Type: api.ControlResize, Rows: rows, Cols: cols})
		}
	}()
	return func() {
		signal.Stop(changes)
		close(changes)
		restore()
	}, nil
}

// maxJSONStdin bounds the standard input of a call that waits, which travels in one piece.
const maxJSONStdin = 16 << 20

// execJSON waits for the command and prints its result as one object.
func (a *app) execJSON(c *client.Client, ref string, spec api.ExecSpec) (int, error) {
	if spec.TTY {
		return 0, api.Errorf(api.CodeInvalid, "--json and -t exclude one another: JSON keeps stdout and stderr apart")
	}
	if spec.Stdin {
		data, err := io.ReadAll(io.LimitReader(a.In, maxJSONStdin+1))
		if err != nil {
			return 0, api.Errorf(api.CodeInvalid, "cannot read standard input: %w", err)
		}
		if len(data) > maxJSONStdin {
			return 0, api.Errorf(api.CodeInvalid, "standard input is over 16M, too much for --json").WithHint("leave out --json, or use banger cp")
		}
		spec.StdinData = data
	}
	result, err := c.ExecWait(a.soft, ref, spec)
	if err != nil {
		return 0, err
	}
	if err := writeJSON(a.Out, result); err != nil {
		return 0, fmt.Errorf("cannot write the result: %w", err)
	}
	return result.ExitCode, nil
}
