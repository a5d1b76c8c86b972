package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/config"
)

func newSessionCmd(a *app) *cobra.Command {
	cmd := group("session", "sessions: commands in a VM that outlive banger, to come back to")
	cmd.AddCommand(newSessionStartCmd(a), newSessionListCmd(a), newSessionShowCmd(a), newSessionLogsCmd(a), newSessionAttachCmd(a),
		newSessionSendCmd(a), newSessionStopCmd(a), newSessionKillCmd(a), newSessionWaitCmd(a), newSessionDeleteCmd(a))
	return cmd
}

type sessionStartOptions struct {
	create        api.SessionCreate
	env, envFiles []string
	labels        []string
	stdin         string
}

func newSessionStartCmd(a *app) *cobra.Command {
	var o sessionStartOptions
	cmd := &cobra.Command{
		Use: "start [flags] VM -- COMMAND [ARG...]", Short: "start a session",
		Long: `Start a command in a VM that goes on without banger: it outlives this command line, the
daemon, the network and the guest's agent, and ends at the latest with the guest. The working
directory and the commands of --require are looked for before anything is started.

Its trace is a directory in the guest, ` + api.SessionsDir + `/ID.
Without --name it is named after its command.`,
		Example: `  banger vm session start web --name build -w /root/repo --require make -- make -j4
  banger vm session start -t web --name claude -- claude
  banger vm session attach web claude`,
		Args:              needCommand,
		ValidArgsFunction: a.completeRunningOne,
		Annotations:       map[string]string{takesCommand: "yes"},
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, ref(args[0]), args[1:]) },
	}
	f := cmd.Flags()
	f.StringVar(&o.create.Name, "name", "", "name of the session, a DNS label (default: its command's)")
	f.StringVarP(&o.create.Cwd, "workdir", "w", "", "absolute `DIR` in the guest to begin in (default: the user's home)")
	f.StringArrayVarP(&o.env, "env", "e", nil, "set a variable: `K=V`, or K for the value it has here")
	f.StringArrayVar(&o.envFiles, "env-file", nil, "set the variables in a `FILE`, one a line")
	f.StringVarP(&o.create.User, "user", "u", "", "`USER` in the guest, optionally USER:GROUP (default: root)")
	f.StringVar(&o.stdin, "stdin", "", "`closed` or pipe, which attach and send feed (default: closed, with -t pipe)")
	f.BoolVarP(&o.create.TTY, "tty", "t", false, "give the command a terminal")
	f.StringArrayVar(&o.labels, "label", nil, "label the session: `K=V`")
	f.StringArrayVar(&o.create.Require, "require", nil, "a `COMMAND` that must be there; may be given several times")
	complete(cmd, "stdin", fixed("closed", "pipe"))
	return cmd
}

func (o *sessionStartOptions) run(ctx context.Context, a *app, vm string, argv []string) error {
	labels, err := parseLabels(o.labels)
	if err != nil {
		return err
	}
	env, err := a.environment(o.env, o.envFiles)
	if err != nil {
		return err
	}
	create := o.create
	create.Argv, create.Env, create.Labels, create.Stdin = argv, env, labels, api.SessionStdin(o.stdin)
	if create.TTY {
		create.Rows, create.Cols = a.windowSize()
		if t := a.env["TERM"]; t != "" && !hasVariable(env, "TERM") {
			create.Env = append(create.Env, "TERM="+t)
		}
	}
	if err := create.Validate(); err != nil {
		return err
	}
	c, err := a.daemon()
	if err != nil {
		return err
	}
	defer a.sayWaking(c, vm)()
	session, err := c.StartSession(ctx, vm, create)
	if err != nil {
		return err
	}
	if session.State == api.SessionFailed {
		if a.json {
			_ = writeJSON(a.Out, session) // the error that follows is what counts
		}
		return api.Errorf(api.CodeInvalid, "session %s did not start: %s: %s", session.Name, session.Stage, session.Error).
			WithHint("banger session show %s %s", session.VM, session.Name)
	}
	if a.json {
		return writeJSON(a.Out, session)
	}
	_, err = fmt.Fprintln(a.Out, session.Name)
	return err
}

func newSessionListCmd(a *app) *cobra.Command {
	return ofVMs[api.Session]{kind: "session", complete: a.completeVM, list: (*client.Client).Sessions, listing: listing[api.Session]{
		heading: []string{"SESSION", "STATE", "COMMAND", "OUTPUT", "STARTED"},
		row: func(a *app, s api.Session) []string {
			return []string{s.VM + "/" + s.Name, sessionState(s), strings.Join(s.Argv, " "), config.FormatSize(s.StdoutBytes + s.StderrBytes), a.ago(s.StartedAt)}
		},
		word: func(s api.Session) string { return s.VM + "/" + s.Name },
	}}.command(a)
}

// sessionState is how a session is, in a word or two.
func sessionState(s api.Session) string {
	switch {
	case s.State == api.SessionExited && s.Signal != "":
		return "ended by " + s.Signal
	case s.State == api.SessionExited && s.ExitCode != nil:
		return fmt.Sprintf("exited %d", *s.ExitCode)
	}
	return string(s.State)
}

func newSessionShowCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show VM SESSION...", Aliases: []string{"inspect"}, Short: "show all about sessions",
		Args: needSessions(-1), ValidArgsFunction: a.completeSessions(0, anySession),
		RunE: func(cmd *cobra.Command, args []string) error {
			return showEach(cmd.Context(), a, args[1:], "", func(ctx context.Context, name string) (any, *fields, error) {
				c, err := a.daemon()
				if err != nil {
					return nil, nil, err
				}
				s, err := c.Session(ctx, ref(args[0]), name)
				return s, sessionFields(a, s), err
			})
		},
	}
}

func newSessionStopCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "stop VM SESSION...", Short: "ask sessions to end (TERM)",
		Long: `Ask the commands of sessions to end: TERM to the process group. It does not wait: banger vm
session wait does, and kill ends what does not listen.`,
		Args: needSessions(-1), ValidArgsFunction: a.completeSessions(0, runs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachSession(cmd.Context(), args, func(ctx context.Context, c *client.Client, vm, name string) (any, error) {
				return c.StopSession(ctx, vm, name)
			})
		},
	}
}

func newSessionKillCmd(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "kill [flags] VM SESSION...", Short: "send sessions a signal",
		Long: `Send a signal to the process group of sessions. KILL, the default, ends all that the command has started.`,
		Args: needSessions(-1), ValidArgsFunction: a.completeSessions(0, runs),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachSession(cmd.Context(), args, func(ctx context.Context, c *client.Client, vm, session string) (any, error) {
				if err := c.SignalSession(ctx, vm, session, name); err != nil || !a.json {
					return nil, err
				}
				return c.Session(ctx, vm, session)
			})
		},
	}
	cmd.Flags().StringVarP(&name, "signal", "s", "KILL", "`NAME` or number: KILL, SIGKILL, 9")
	complete(cmd, "signal", fixed("KILL", "TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "STOP", "CONT"))
	return cmd
}

func newSessionDeleteCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "delete VM SESSION...", Aliases: []string{"rm"}, Short: "delete sessions that have ended, with their logs",
		Args: needSessions(-1), ValidArgsFunction: a.completeSessions(0, api.Session.Ended),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachSession(cmd.Context(), args, func(ctx context.Context, c *client.Client, vm, name string) (any, error) {
				return c.DeleteSession(ctx, vm, name)
			})
		},
	}
}

// eachSession does work on sessions of one VM, one after the other.
func (a *app) eachSession(ctx context.Context, args []string, work func(ctx context.Context, c *client.Client, vm, name string) (any, error)) error {
	return a.inTurn(unique(args[1:]), func(c *client.Client, name string) (any, error) { return work(ctx, c, ref(args[0]), name) })
}

// needSessions wants a VM and one session or, if most is -1, several.
func needSessions(most int) cobra.PositionalArgs {
	if most < 0 {
		return between(2, -1, "a VM and the name of at least one session")
	}
	return between(2, most+1, "a VM and the name of a session")
}

func anySession(api.Session) bool { return true }
func runs(s api.Session) bool     { return !s.Ended() }

// completeSessions offers a VM, then its sessions, up to most words.
func (a *app) completeSessions(most int, want func(api.Session) bool) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return a.completeVM(cmd, args, word)
		}
		if most > 0 && len(args) >= most {
			return nil, noFiles
		}
		return a.live(args[1:], func(ctx context.Context, c *client.Client) ([]string, error) {
			list, err := c.Sessions(ctx, ref(args[0]))
			var names []string
			for _, s := range list {
				if want(s) {
					names = append(names, s.Name)
				}
			}
			return names, err
		})
	}
}
