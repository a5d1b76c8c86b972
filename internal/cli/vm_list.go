package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/config"
)

type listOptions struct {
	all, quiet bool
	filters    []string
}

func newListCmd(a *app) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:               "list [flags]",
		Aliases:           []string{"ls", "ps"},
		Short:             "list VMs: those that run, or all with -a",
		Args:              needNone,
		ValidArgsFunction: nothing,
		RunE:              func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), a) },
	}
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "stopped VMs too")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print only ids")
	cmd.Flags().StringArrayVarP(&o.filters, "filter", "f", nil, "only VMs with `label=K`, label=K=V or state=STATE")
	return cmd
}

// notStopped are the states that are listed without -a. The daemon looks for them: of the stopped ones there may be thousands.
var notStopped = [...]api.State{api.StateStarting, api.StateRunning, api.StateStopping, api.StateSuspended, api.StatePaused, api.StateDeleting}

func (o *listOptions) run(ctx context.Context, a *app) error {
	byState := false
	for _, f := range o.filters {
		if !strings.HasPrefix(f, "label=") && !strings.HasPrefix(f, "state=") {
			return api.Errorf(api.CodeInvalid, "%q is no filter", f).WithHint("--filter label=KEY, label=KEY=VALUE or state=running")
		}
		byState = byState || strings.HasPrefix(f, "state=")
	}
	c, err := a.daemon()
	if err != nil {
		return err
	}
	filters := o.filters
	if !o.all && !byState {
		for _, state := range notStopped {
			filters = append(filters, "state="+string(state))
		}
	}
	vms, err := c.VMs(ctx, filters...)
	if err != nil {
		return err
	}
	slices.SortFunc(vms, func(x, y api.VM) int { return cmp.Compare(x.Name, y.Name) })
	l := listing[api.VM]{
		heading: []string{"ID", "NAME", "STATE", "IMAGE", "CPUS", "MEMORY", "ADDRESS", "CREATED"}, row: vmRow, word: func(vm api.VM) string { return vm.ID },
	}
	if err := l.print(a, vms, o.quiet); err != nil {
		return err
	}
	if len(vms) == 0 && len(o.filters) == 0 && !o.all && !o.quiet && !a.json && isTerminal(a.Out) {
		a.note("none runs; stopped ones, too: banger ps -a")
	}
	return nil
}

func vmRow(a *app, vm api.VM) []string {
	return []string{vm.ID, vm.Name, stateWord(vm), vm.Spec.Image, strconv.Itoa(vm.Spec.CPUs), config.FormatSize(vm.Spec.MemoryBytes), vm.Runtime.GuestIP, a.ago(vm.CreatedAt)}
}

// stateWord is the state for people, with what they would ask next.
func stateWord(vm api.VM) string {
	switch {
	case vm.State == api.StateRunning && !vm.Ready:
		return "running (not ready)"
	case vm.State == api.StateStopped && vm.LastError != nil:
		return "stopped (failed)"
	case vm.State == api.StateStopped && vm.Main != nil && vm.Main.ExitCode != nil:
		return fmt.Sprintf("stopped (%d)", *vm.Main.ExitCode)
	}
	return string(vm.State)
}
