package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
)

func newSessionAttachCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "attach VM SESSION", Short: "see what a session writes, and type",
		Long: `Attach to a session: what it writes is seen as it comes, what is typed goes to its standard input.
A terminal's screen is painted again first. Ctrl-P Ctrl-Q detaches, and the session goes on. When
the session ends, its exit code becomes banger's.

One at a time can be attached; session logs -f is for everybody.`,
		Args: needSessions(1), ValidArgsFunction: a.completeSessions(2, runs),
		Annotations: map[string]string{failsWith125: "yes"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.json {
				return api.Errorf(api.CodeInvalid, "attach has no JSON").WithHint("banger vm session logs -f %s %s", args[0], args[1])
			}
			c, err := a.daemon()
			if err != nil {
				return err
			}
			vm := ref(args[0])
			defer a.sayWaking(c, vm)()
			session, err := c.Session(cmd.Context(), vm, args[1])
			if err != nil {
				return err
			}
			at := &attaching{app: a, client: c, vm: session.VMID, session: session, key: rand.Text()}
			code, err := at.run()
			if err != nil {
				return err
			}
			return exitWith(code)
		},
	}
}

// attaching is one attach, over as many connections as it takes.
type attaching struct {
	*app
	client  *client.Client
	vm      string
	session api.Session
	key     string
	control chan api.Control
	typed   *keyboard
	stdout  counted
	stderr  counted
	begun   bool
	lost    outage
}

// counted counts the bytes of a stream, so that the next connection can go on from there.
type counted struct {
	w      io.Writer
	offset int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.offset += int64(n)
	return n, err
}

func (t *attaching) run() (int, error) {
	ctx, detach := context.WithCancel(t.hard)
	defer detach()
	t.control = make(chan api.Control, 64)
	t.stdout.w, t.stderr.w = t.Out, t.Err
	release := t.signals.take(func(sig syscall.Signal) {
		// What is typed is for the command; what comes from elsewhere is for banger, and the session goes on.
		if sig == syscall.SIGINT || sig == syscall.SIGQUIT {
			t.send(api.Control{Type: api.ControlSignal, Signal: signalName(sig)})
			return
		}
		detach()
	})
	defer release()
	restore, err := t.terminal()
	if err != nil {
		return 0, err
	}
	defer restore()
	t.typed = listen(t.In, detach, isTerminal(t.In))
	for {
		result, err := t.once(ctx)
		switch {
		case err == nil:
			return result.ExitCode, nil
		case ctx.Err() != nil:
			restore()
			t.note("detached from %s; banger vm session attach %s %s", t.session.Name, t.session.VM, t.session.Name)
			return 0, nil
		case errors.Is(err, syscall.EPIPE):
			return 128 + int(syscall.SIGPIPE), nil
		case !t.begun:
			return 0, err
		case !api.CodeOf(err).Retryable():
			return t.finish(ctx, err)
		}
		if !t.lost.again(ctx, t.now()) {
			return 0, err
		}
	}
}

func (t *attaching) send(m api.Control) {
	select {
	case t.control <- m:
	default: // nobody takes them up any more
	}
}

// once is one connection.
func (t *attaching) once(ctx context.Context) (api.ExecResult, error) {
	attach := api.SessionAttach{Key: t.key}
	if t.begun {
		attach.StdoutOffset, attach.StderrOffset = &t.stdout.offset, &t.stderr.offset
	}
	in, leave := t.typed.reader()
	defer leave()
	streams := client.AttachIO{
		ExecIO: client.ExecIO{Stdin: in, Stdout: &t.stdout, Stderr: &t.stderr, Control: t.control},
		Beside: t.Out,
		Begun: func(from client.AttachOffsets) {
			if t.begun && !t.session.TTY {
				t.saySkipped("stdout", t.stdout.offset, from.Stdout)
				t.saySkipped("stderr", t.stderr.offset, from.Stderr)
			}
			if t.begun {
				t.sayUnsent(from.Stdin, in.resume(from.Stdin))
			}
			t.stdout.offset, t.stderr.offset, t.begun = from.Stdout, from.Stderr, true
			t.lost = outage{}
		},
	}
	streams.Rows, streams.Cols = t.windowSize()
	return t.client.AttachSession(ctx, t.vm, t.session, attach, streams)
}

// finish is for a session that has ended while the connection was lost: the rest is in its logs.
func (t *attaching) finish(ctx context.Context, why error) (int, error) {
	s, err := t.client.Session(ctx, t.vm, t.session.Name)
	if err != nil || !s.Ended() || s.ExitCode == nil {
		return 0, why
	}
	for stream, out := range map[string]*counted{"stdout": &t.stdout, "stderr": &t.stderr} {
		r, _, err := t.client.SessionLogs(ctx, t.vm, t.session.Name, client.SessionLogOptions{Stream: stream, Offset: out.offset})
		if err != nil {
			return 0, err
		}
		_, err = io.Copy(out, r)
		r.Close()
		if err != nil {
			return 0, lost(ctx, err)
		}
	}
	return *s.ExitCode, nil
}

// terminal makes the caller's terminal fit for the session's, and follows its size.
func (t *attaching) terminal() (restore func(), err error) {
	undo := func() {}
	if fd, ok := terminal(t.In); ok {
		if undo, err = detachable(fd, t.session.TTY && t.session.Stdin == api.StdinPipe); err != nil {
			return nil, api.Errorf(api.CodeInternal, "cannot set up the terminal: %w", err)
		}
	}
	changes := make(chan os.Signal, 1)
	if t.session.TTY {
		signal.Notify(changes, syscall.SIGWINCH)
		go func() {
			for range changes {
				rows, cols := t.windowSize()
				t.send(api.Control{Type: api.ControlResize, Rows: rows, Cols: cols})
			}
		}()
	}
	return sync.OnceFunc(func() {
		signal.Stop(changes)
		close(changes)
		if t.session.TTY && isTerminal(t.Out) {
			_, _ = io.WriteString(t.Out, plainTerminal)
		}
		undo()
	}), nil
}

// plainTerminal undoes what a session's program may have told the terminal: colours, cursor, mouse, bracketed paste,
// the alternate screen; then a line of its own.
const plainTerminal = "\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?1l\x1b>\x1b[?1049l\x1b[?25h\x1b[0m\r\n"
