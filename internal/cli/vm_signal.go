package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/client"
)

func newSignalCmd(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:               "signal [flags] VM...",
		Short:             "send a signal to the main command of VMs",
		Args:              needRefs,
		ValidArgsFunction: a.completeRunning,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachVM(cmd.Context(), args, func(ctx context.Context, c *client.Client, ref, _ string) (any, error) {
				if err := c.SignalVM(ctx, ref, name); err != nil {
					return nil, err
				}
				return a.vmAfter(ctx, c, ref)
			})
		},
	}
	cmd.Flags().StringVarP(&name, "signal", "s", "TERM", "`NAME` or number: TERM, SIGTERM, 15")
	complete(cmd, "signal", fixed("TERM", "INT", "HUP", "KILL", "QUIT", "USR1", "USR2", "STOP", "CONT"))
	return cmd
}
