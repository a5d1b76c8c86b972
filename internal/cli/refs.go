package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"banger/api"
	"banger/client"
)

// atOnce is how many VMs one command works on at the same time.
const atOnce = 8

// ref is a VM as the user wrote it, without the .vm that its name has on the network.
func ref(arg string) string { return strings.TrimSuffix(arg, ".vm") }

// needRefs refuses a command without any VM.
func needRefs(cmd *cobra.Command, args []string) error {
	for _, a := range args {
		if ref(a) == "" {
			return api.Errorf(api.CodeInvalid, "%q is no name of a VM", a).WithHint("banger ps -a")
		}
	}
	if len(args) == 0 {
		return api.Errorf(api.CodeInvalid, "%s needs the name or id of at least one VM", cmd.CommandPath()).
			WithHint("banger ps -a lists them; usage: %s", cmd.UseLine())
	}
	return nil
}

// needOne wants exactly one positional, called what.
func needOne(what, list string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 || args[0] == "":
			return api.Errorf(api.CodeInvalid, "%s needs %s", cmd.CommandPath(), what).WithHint("%s; usage: %s", list, cmd.UseLine())
		case len(args) > 1:
			return api.Errorf(api.CodeInvalid, "%s takes one %s, not %d: what is %q?", cmd.CommandPath(), strings.TrimPrefix(strings.TrimPrefix(what, "the "), "a "), len(args), args[1]).
				WithHint("usage: %s", cmd.UseLine())
		}
		return nil
	}
}

// needNone refuses positionals.
func needNone(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return api.Errorf(api.CodeInvalid, "%s takes no %q", cmd.CommandPath(), args[0]).WithHint("usage: %s", cmd.UseLine())
	}
	return nil
}

// unique drops repeated references, so that `rm x x` does not fail at the second.
func unique(args []string) []string {
	seen := make(map[string]bool)
	var out []string
	for _, a := range args {
		if r := ref(a); !seen[r] {
			seen[r] = true
			out = append(out, r)
		}
	}
	return out
}

// eachVM does work on several VMs side by side. All of them are tried; what succeeded is
// printed by name as it was given, each failure gets its own error.
func (a *app) eachVM(ctx context.Context, args []string, work func(ctx context.Context, c *client.Client, ref, label string) (any, error)) error {
	c, err := a.daemon()
	if err != nil {
		return err
	}
	args = unique(args)
	results, errs := make([]any, len(args)), make([]error, len(args))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, arg := range args {
		label := ""
		if len(args) > 1 {
			label = arg
		}
		group.Go(func() error {
			results[i], errs[i] = work(ctx, c, arg, label)
			return nil
		})
	}
	_ = group.Wait() // its functions return nil: every failure is in errs
	for i, arg := range args {
		if errs[i] != nil {
			continue
		}
		if err := a.printResult(arg, results[i]); err != nil {
			return err
		}
	}
	return a.allErrors(errs)
}

// inTurn does work on each name, one after the other. All of them are tried; what succeeded is printed by name.
func (a *app) inTurn(names []string, work func(c *client.Client, name string) (any, error)) error {
	c, err := a.daemon()
	if err != nil {
		return err
	}
	errs := make([]error, len(names))
	for i, name := range names {
		var result any
		if result, errs[i] = work(c, name); errs[i] != nil {
			continue
		}
		if err := a.printResult(name, result); err != nil {
			return err
		}
	}
	return a.allErrors(errs)
}

func (a *app) printResult(arg string, result any) error {
	if a.json && result != nil {
		return writeJSON(a.Out, result)
	}
	_, err := fmt.Fprintln(a.Out, arg)
	return err
}

// allErrors prints every error but the last, and returns that one to be printed by Main.
func (a *app) allErrors(errs []error) error {
	var last error
	for _, err := range errs {
		if err == nil {
			continue
		}
		if last != nil && !errors.Is(last, context.Canceled) {
			a.printError(last)
		}
		last = err
	}
	return last
}

// operate starts an operation on a VM and follows it to its end.
func (a *app) operate(ctx context.Context, c *client.Client, label string, begin func(context.Context) (api.Operation, error)) (api.Operation, error) {
	// The request itself is not cut off by Ctrl-C: it would be unknown whether there is
	// something to cancel.
	op, err := begin(a.hard)
	if err != nil {
		return op, err
	}
	return a.follow(ctx, c, op, label)
}

// vmAfter is the VM as it is after an operation, for --json.
func (a *app) vmAfter(ctx context.Context, c *client.Client, ref string) (any, error) {
	if !a.json {
		return nil, nil
	}
	return c.VM(ctx, ref)
}
