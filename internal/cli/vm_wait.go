package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
)

type waitOptions struct {
	condition string
	timeout   durationFlag
}

func newWaitCmd(a *app) *cobra.Command {
	var o waitOptions
	cmd := &cobra.Command{
		Use:   "wait [flags] VM...",
		Short: "wait until a VM's main command has ended, or for something else",
		Long: `Wait until the command given to run has ended (or, where there was none, the VM has
stopped); its exit code is printed and becomes banger's. With --for, wait until the VM is ready, has stopped, or listens on a port.
A --timeout that passes is exit code 124.`,
		Args:              needRefs,
		ValidArgsFunction: a.completeVMs,
		Annotations:       map[string]string{failsWith125: "yes"},
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, unique(args)) },
	}
	cmd.Flags().StringVar(&o.condition, "for", "exit", "`exit`, ready, stopped or port:N")
	cmd.Flags().Var(&o.timeout, "timeout", "give up after this long")
	complete(cmd, "for", fixed("exit", "ready", "stopped", "port:"))
	return cmd
}

func (o *waitOptions) run(ctx context.Context, a *app, refs []string) error {
	if err := checkCondition(o.condition); err != nil {
		return err
	}
	c, err := a.daemon()
	if err != nil {
		return err
	}
	// One clock for all of them: whoever waits for three VMs for 10 s waits 10 s.
	begin, code := a.now(), 0
	errs := make([]error, len(refs))
	for i, r := range refs {
		var result api.WaitResult
		errs[i] = a.resuming(ctx, func() (bool, error) {
			left := o.timeout.d
			if o.timeout.set {
				left = max(1, o.timeout.d-a.now().Sub(begin))
			}
			asked := a.now()
			var err error
			result, err = c.Wait(ctx, r, o.condition, left)
			return a.now().Sub(asked) > time.Second, err
		})
		if errs[i] != nil {
			continue
		}
		one, err := o.report(a, result)
		if errs[i] = err; code == 0 {
			code = one
		}
	}
	if err := a.allErrors(errs); err != nil {
		if api.CodeOf(err) == api.CodeTimeout {
			a.printError(err)
			return exitWith(exitTimeout)
		}
		return err
	}
	return exitWith(code)
}

// report prints one result, and gives the exit code that it stands for.
func (o *waitOptions) report(a *app, result api.WaitResult) (int, error) {
	code := 0
	var err error
	if o.condition == "exit" {
		switch m := result.Main; {
		case m == nil: // a VM that was given no command has ended when it has stopped
		case m.ExitCode == nil:
			err = api.Errorf(api.CodeConflict, "the main command of %s has no exit code: %s", result.VM.Name, m.Error)
		default:
			code = *m.ExitCode
		}
	}
	switch {
	case a.json:
		return code, firstError(err, writeJSONLine(a.Out, result))
	case err == nil && o.condition == "exit":
		_, err = fmt.Fprintln(a.Out, code)
	}
	return code, err
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkCondition(s string) error {
	if port, ok := strings.CutPrefix(s, "port:"); ok {
		if n, err := strconv.Atoi(port); err == nil && n >= 1 && n <= 65535 {
			return nil
		}
	}
	switch s {
	case "exit", "ready", "stopped":
		return nil
	}
	return api.Errorf(api.CodeInvalid, "--for is %q: give exit, ready, stopped or port:N", s)
}
