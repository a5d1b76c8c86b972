package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
)

// forkOptions are the flags of fork.
type forkOptions struct {
	count  int
	names  []string
	labels []string
	remove bool
}

func newForkCmd(a *app) *cobra.Command {
	var o forkOptions
	cmd := &cobra.Command{
		Use:   "fork [flags] VM",
		Short: "copy a running VM, memory and disks, in an instant",
		Long: `Copy a running VM: each fork goes on from where it is at this moment, with the same programs
running, the same open files, and disks of its own; and is a machine of its own, with another
address, host name, machine id and host key. The VM itself stands still for milliseconds.
The forks' names are printed, one per line.`,
		Args:              needOne("the name or id of a VM", "banger ps lists them"),
		ValidArgsFunction: a.completeRunning,
		RunE: func(cmd *cobra.Command, args []string) error {
			fork, err := o.request(cmd)
			if err != nil {
				return err
			}
			c, err := a.daemon()
			if err != nil {
				return err
			}
			return a.fork(cmd.Context(), c, ref(args[0]), fork)
		},
	}
	f := cmd.Flags()
	f.IntVarP(&o.count, "count", "n", 1, "how many forks, 1 to 100; all begin at the same moment")
	f.StringArrayVar(&o.names, "name", nil, "name of the fork; with --count: NAME-1, NAME-2, ...; or given once for each fork (default: made up)")
	f.StringArrayVar(&o.labels, "label", nil, "label the forks, beyond the VM's own labels: `K=V`")
	f.BoolVar(&o.remove, "rm", false, "delete each fork when it has stopped")
	complete(cmd, "name", nothing)
	return cmd
}

func (o *forkOptions) request(cmd *cobra.Command) (api.VMFork, error) {
	labels, err := parseLabels(o.labels)
	if err != nil {
		return api.VMFork{}, err
	}
	fork := api.VMFork{Labels: labels, AutoRemove: o.remove}
	given := cmd.Flags().Changed("count")
	if given && o.count < 1 {
		return fork, api.Errorf(api.CodeInvalid, "--count is %d: give 1 to %d", o.count, api.MaxForks)
	}
	if len(o.names) > 1 {
		fork.Names = o.names
		if given {
			fork.Count = o.count
		}
		return fork, fork.Validate()
	}
	fork.Count = o.count
	if len(o.names) == 1 {
		fork.Name = o.names[0]
	}
	return fork, fork.Validate()
}

// fork makes forks and prints them. When ctx ends before that is done, all of it is undone.
func (a *app) fork(ctx context.Context, c *client.Client, ref string, fork api.VMFork) error {
	forked, err := c.ForkVM(a.hard, ref, fork)
	if err != nil {
		return err
	}
	if _, err := a.follow(ctx, c, forked.Operation, ""); err != nil {
		return err
	}
	if !a.json {
		for _, vm := range forked.VMs {
			if _, err := fmt.Fprintln(a.Out, vm.Name); err != nil {
				return err
			}
		}
		return nil
	}
	vms := make([]api.VM, len(forked.VMs))
	for n, vm := range forked.VMs {
		if vms[n], err = c.VM(ctx, vm.ID); err != nil {
			return err
		}
	}
	return writeJSON(a.Out, vms)
}
