package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"banger/api"
	"banger/client"
	"banger/internal/config"

	"github.com/spf13/cobra"
)

func sessionFields(a *app, s api.Session) *fields {
	f := &fields{}
	f.add("name", s.Name)
	f.add("id", s.ID)
	f.add("vm", s.VM)
	f.add("state", sessionState(s))
	f.add("stage", string(s.Stage))
	f.add("error", s.Error)
	f.add("command", quoteWords(s.Argv))
	f.add("user", s.User)
	f.add("working directory", s.Cwd)
	f.add("variables", strings.Join(s.Env, ", "))
	f.add("terminal", yesNo(s.TTY))
	f.add("stdin", string(s.Stdin))
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		f.add("label", k+"="+s.Labels[k])
	}
	if s.PID > 0 {
		f.add("pid", fmt.Sprint(s.PID))
	}
	f.add("stdout", logSize(s.StdoutBytes, s.StdoutCut))
	f.add("stderr", logSize(s.StderrBytes, s.StderrCut))
	f.add("started", a.ago(s.StartedAt))
	if s.EndedAt != nil {
		f.add("ended", a.ago(*s.EndedAt))
	}
	f.add("in the guest", api.SessionsDir+"/"+s.ID)
	return f
}

func logSize(size, cut int64) string {
	if cut == 0 {
		return config.FormatSize(size)
	}
	return config.FormatSize(size) + ", of which the first " + config.FormatSize(cut) + " are gone"
}

// waitsForSession is `session wait`.
func newSessionWaitCmd(a *app) *cobra.Command {
	var timeout durationFlag
	cmd := &cobra.Command{
		Use: "wait [flags] VM SESSION", Short: "wait until a session has ended",
		Long: `Wait until a session has ended; its exit code is printed and becomes banger's. A --timeout
that passes is exit code 124.`,
		Args: needSessions(1), ValidArgsFunction: a.completeSessions(2, anySession),
		Annotations: map[string]string{failsWith125: "yes"},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon()
			if err != nil {
				return err
			}
			s, err := a.awaitSession(cmd.Context(), c, ref(args[0]), args[1], timeout)
			if api.CodeOf(err) == api.CodeTimeout {
				a.printError(err)
				return exitWith(exitTimeout)
			}
			if err != nil {
				return err
			}
			if a.json {
				err = writeJSONLine(a.Out, s)
			} else if s.ExitCode != nil {
				_, err = fmt.Fprintln(a.Out, *s.ExitCode)
			}
			if err != nil {
				return err
			}
			return sessionCode(s)
		},
	}
	cmd.Flags().Var(&timeout, "timeout", "give up after this long")
	return cmd
}

// awaitSession waits for a session's end, over the daemon's too.
func (a *app) awaitSession(ctx context.Context, c *client.Client, vm, name string, timeout durationFlag) (s api.Session, err error) {
	begin := a.now()
	err = a.resuming(ctx, func() (bool, error) {
		left := timeout.d
		if timeout.set {
			left = max(1, timeout.d-a.now().Sub(begin))
		}
		asked := a.now()
		s, err = c.WaitSession(ctx, vm, name, left)
		return a.now().Sub(asked) > soon, err
	})
	return s, err
}

// sessionCode makes a session's exit code banger's.
func sessionCode(s api.Session) error {
	if s.ExitCode == nil {
		return api.Errorf(api.CodeConflict, "session %s of VM %s has no exit code: %s", s.Name, s.VM, s.Error)
	}
	return exitWith(*s.ExitCode)
}
