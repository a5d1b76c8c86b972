package cli

import (
	"context"
	"crypto/rand"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
)

func newSessionSendCmd(a *app) *cobra.Command {
	var eof bool
	cmd := &cobra.Command{
		Use: "send [flags] VM SESSION [TEXT...]", Short: "write to a session's standard input",
		Long: `Write to a session's standard input without attaching: banger's own standard input or, where
there are words, those, with spaces between them and a newline at the end. send returns when the
command has been given all of it. With --eof there is no more after it, for ever; on a
terminal that is Ctrl-D.`,
		Example: `  banger vm session send web repl 'print(42)'
  banger vm session send --eof web psql < dump.sql`,
		Args: between(2, -1, "a VM, the name of a session, and may have text"), ValidArgsFunction: a.completeSessions(2, runs),
		RunE: func(cmd *cobra.Command, args []string) error {
			var in io.Reader = a.In
			switch {
			case len(args) > 2:
				in = strings.NewReader(strings.Join(args[2:], " ") + "\n")
			case isTerminal(a.In) && eof:
				in = strings.NewReader("") // only the end was wanted
			case isTerminal(a.In):
				return api.Errorf(api.CodeInvalid, "nothing to send: standard input is a terminal").WithHint("banger vm session attach %s %s", args[0], args[1])
			}
			c, err := a.daemon()
			if err != nil {
				return err
			}
			defer a.sayWaking(c, ref(args[0]))()
			session, err := c.Session(cmd.Context(), ref(args[0]), args[1])
			if err != nil {
				return err
			}
			return (&sending{app: a, client: c, session: session, typed: listen(in, nil, false), eof: eof, key: rand.Text()}).run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&eof, "eof", false, "end the command's standard input after it")
	return cmd
}

// sending is one send, over as many connections as it takes.
type sending struct {
	*app
	client  *client.Client
	session api.Session
	typed   *keyboard
	eof     bool
	key     string
	begun   bool
	taken   int64
	lost    outage
}

func (s *sending) run(ctx context.Context) error {
	for {
		err := s.once(ctx)
		switch {
		case err == nil || !s.begun || ctx.Err() != nil:
			return err
		case api.CodeOf(err).Retryable() && s.lost.again(ctx, s.now()):
			continue
		case s.lost == (outage{}):
			return err
		}
		return api.Errorf(api.CodeOf(err), "%w: %d bytes of what was sent have arrived for certain", err, s.taken).WithHint("%s", api.AsError(err).Hint)
	}
}

// once is one connection.
func (s *sending) once(ctx context.Context) error {
	in, leave := s.typed.reader()
	defer leave()
	return s.client.SendSession(ctx, s.session.VMID, s.session.ID, client.Sending{Stdin: in, EOF: s.eof, Key: s.key, Begun: func(taken int64) int64 {
		from := in.resume(taken)
		if s.begun {
			s.sayUnsent(taken, from)
		}
		s.taken, s.begun, s.lost = max(s.taken, taken, 0), true, outage{}
		return from
	}})
}
