package cli

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
)

type logsOptions struct {
	follow, timestamps, console bool
	tail                        int
	offset                      int64
	stream                      string
}

func newLogsCmd(a *app) *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:   "logs [flags] VM",
		Short: "show the output of a VM's main command, or its console",
		Long: `Show what the command given to run has written (stdout and stderr), or with --console
the guest's console. Old output may be gone; offsets stay true all the same.`,
		Args:              needOne("the name or id of a VM", "banger ps -a lists them"),
		ValidArgsFunction: a.completeVM,
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, ref(args[0])) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "go on until the command, or with --console the VM, has ended")
	f.IntVarP(&o.tail, "tail", "n", -1, "only the last `N` lines")
	f.BoolVarP(&o.timestamps, "timestamps", "t", false, "put its time before each line (not with --console)")
	f.BoolVar(&o.console, "console", false, "the guest's console instead")
	f.Int64Var(&o.offset, "offset", -1, "begin at this `BYTE` of the log")
	f.StringVar(&o.stream, "stream", "", "only `stdout` or stderr")
	complete(cmd, "stream", fixed("stdout", "stderr"))
	return cmd
}

func (o *logsOptions) run(ctx context.Context, a *app, vm string) error {
	switch {
	case o.tail >= 0 && o.offset >= 0:
		return api.Errorf(api.CodeInvalid, "--tail and --offset exclude one another")
	case o.stream != "" && o.stream != "stdout" && o.stream != "stderr":
		return api.Errorf(api.CodeInvalid, "--stream is %q: give stdout or stderr", o.stream)
	case (o.stream != "" || o.timestamps) && o.console:
		return api.Errorf(api.CodeInvalid, "a console has neither streams nor times: leave out --stream and --timestamps")
	}
	c, err := a.daemon()
	if err != nil {
		return err
	}
	options := client.LogOptions{Source: "main", Stream: o.stream, Offset: o.offset, Tail: o.tail, Follow: o.follow, Timestamps: o.timestamps}
	if o.console {
		options.Source = "console"
	}
	if a.json && !o.console {
		options.Timestamps = true // an object has the time of its line; a console's lines have none
	}
	return a.resuming(ctx, func() (bool, error) {
		r, offset, err := c.Logs(ctx, vm, options)
		if err != nil {
			return false, err
		}
		defer r.Close()
		if a.json {
			return false, finalError(ctx, jsonLog(a.Out, r))
		}
		n, err := io.Copy(a.Out, r)
		if options.Timestamps || options.Stream != "" {
			return false, finalError(ctx, err) // what was read is no offset
		}
		options.Offset, options.Tail = offset+n, -1 // where to go on if the daemon ends
		return n > 0, lost(ctx, err)
	})
}

// lost gives an error in the middle of a stream its code.
func lost(ctx context.Context, err error) error {
	switch {
	case err == nil || errors.As(err, new(*api.Error)):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, syscall.EPIPE):
		return exitWith(128 + int(syscall.SIGPIPE))
	}
	return api.Errorf(api.CodeUnreachable, "lost the daemon in the middle of the log: %w", err).WithHint("banger logs again; offsets stay true")
}

// finalError is lost for a log that cannot be taken up again.
func finalError(ctx context.Context, err error) error {
	err = lost(ctx, err)
	if e := (*api.Error)(nil); errors.As(err, &e) && e.Code == api.CodeUnreachable {
		final := *e
		final.Code = api.CodeNotReady
		return &final
	}
	return err
}

// logLine is a line of a log as JSON.
type logLine struct {
	At   *time.Time `json:"at"`
	Line string     `json:"line"`
}
