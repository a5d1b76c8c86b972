package cli

import (
	"context"
	"io"
	"sync"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
)

type sessionLogsOptions struct {
	stream string
	tail   int
	offset int64
	follow bool
}

// defaultTail is how many lines session logs shows where nothing else is said.
const defaultTail = 200

func newSessionLogsCmd(a *app) *cobra.Command {
	var o sessionLogsOptions
	cmd := &cobra.Command{
		Use: "logs [flags] VM SESSION", Short: "show what a session has written",
		Long: `Show what a session has written: its stdout on stdout, its stderr on stderr. Of each stream the
last 16M are kept (session_log in the configuration); where older output is gone, and is asked for,
stderr says how much. Offsets stay true.`,
		Args: needSessions(1), ValidArgsFunction: a.completeSessions(2, anySession),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), a, cmd, ref(args[0]), args[1])
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.stream, "stream", "", "only `stdout` or stderr")
	f.IntVarP(&o.tail, "tail", "n", defaultTail, "only the last `N` lines of each stream; -1 for all")
	f.Int64Var(&o.offset, "offset", -1, "begin at this `BYTE` of the stream")
	f.BoolVarP(&o.follow, "follow", "f", false, "go on until the session has ended")
	complete(cmd, "stream", fixed("stdout", "stderr"))
	return cmd
}

func (o *sessionLogsOptions) run(ctx context.Context, a *app, cmd *cobra.Command, vm, name string) error {
	streams := []string{"stdout", "stderr"}
	switch {
	case o.stream == "stdout", o.stream == "stderr":
		streams = []string{o.stream}
	case o.stream != "":
		return api.Errorf(api.CodeInvalid, "--stream is %q: give stdout or stderr", o.stream)
	case o.offset >= 0:
		return api.Errorf(api.CodeInvalid, "--offset counts in one stream").WithHint("--stream stdout")
	case a.json:
		return api.Errorf(api.CodeInvalid, "a session's output is bytes, not JSON").WithHint("leave out --json")
	}
	if o.offset >= 0 && cmd.Flags().Changed("tail") {
		return api.Errorf(api.CodeInvalid, "--tail and --offset exclude one another")
	}
	c, err := a.daemon()
	if err != nil {
		return err
	}
	defer a.sayWaking(c, vm)()
	errs := make([]error, len(streams))
	var both sync.WaitGroup
	for i, stream := range streams {
		one := func() { errs[i] = o.copy(ctx, a, c, vm, name, stream, len(streams) == 1) }
		if o.follow {
			both.Go(one)
		} else if one(); errs[i] != nil {
			break
		}
	}
	both.Wait()
	return firstError(errs...)
}

// copy copies one stream to where it belongs; one that was asked for alone goes to stdout.
func (o *sessionLogsOptions) copy(ctx context.Context, a *app, c *client.Client, vm, name, stream string, alone bool) error {
	out := a.Out
	if stream == "stderr" && !alone {
		out = a.Err
	}
	q := client.SessionLogOptions{Stream: stream, Offset: o.offset, Tail: o.tail, Follow: o.follow}
	asked := o.offset
	if o.offset < 0 && o.tail < 0 {
		asked = 0
	}
	return a.resuming(ctx, func() (bool, error) {
		r, offset, err := c.SessionLogs(ctx, vm, name, q)
		if err != nil {
			return false, err
		}
		defer r.Close()
		a.saySkipped(stream, asked, offset)
		n, err := io.Copy(out, r)
		q.Offset, asked = offset+n, offset+n // where to go on if the daemon ends
		return n > 0, lost(ctx, err)
	})
}

// saySkipped tells that output is gone that was asked for.
func (a *app) saySkipped(stream string, asked, offset int64) {
	if asked >= 0 && offset > asked {
		a.note("banger: %d bytes of %s are gone, up to offset %d", offset-asked, stream, offset)
	}
}
