package cli

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
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
			return c.SendSession(cmd.Context(), ref(args[0]), args[1], in, eof)
		},
	}
	cmd.Flags().BoolVar(&eof, "eof", false, "end the command's standard input after it")
	return cmd
}
