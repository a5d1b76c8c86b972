package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
)

func newSuspendCmd(a *app) *cobra.Command {
	return vmWork{
		use: "suspend VM...", short: "freeze VMs to disk and give their memory back", complete: a.completeRunning,
		long: "Freeze VMs to disk and give their memory back. `banger start` lets them go on from there.",
		begin: func(ctx context.Context, c *client.Client, ref string) (api.Operation, error) {
			return c.SuspendVM(ctx, ref)
		},
	}.command(a)
}

func newPauseCmd(a *app) *cobra.Command {
	return a.pausing("pause VM...", "stop the CPUs of VMs; they keep their memory", (*client.Client).PauseVM)
}

func newUnpauseCmd(a *app) *cobra.Command {
	return a.pausing("unpause VM...", "let paused VMs go on", (*client.Client).UnpauseVM)
}

func (a *app) pausing(use, short string, call func(*client.Client, context.Context, string) (api.VM, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: needRefs, ValidArgsFunction: a.completeRunning,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachVM(cmd.Context(), args, func(ctx context.Context, c *client.Client, ref, _ string) (any, error) {
				return call(c, ctx, ref)
			})
		},
	}
}
