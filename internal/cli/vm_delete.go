package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
)

func newDeleteCmd(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "delete [flags] VM...",
		Aliases: []string{"rm"},
		Short:   "delete VMs and their disks",
		Long:    "Delete VMs with all that belongs to them. A running VM, or one that has\nsnapshots, is deleted only with -f; its snapshots go with it.\nWith -f and no VM at all there is nothing to do, so that banger rm -f $(banger ps -aq) works.",
		Args: func(cmd *cobra.Command, args []string) error {
			if force && len(args) == 0 {
				return nil
			}
			return needRefs(cmd, args)
		},
		ValidArgsFunction: a.completeVMs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachVM(cmd.Context(), args, func(ctx context.Context, c *client.Client, ref, label string) (any, error) {
				gone, err := a.vmAfter(ctx, c, ref) // --json prints what it was
				if err != nil {
					return nil, err
				}
				_, err = a.operate(ctx, c, label, func(ctx context.Context) (api.Operation, error) {
					return c.DeleteVM(ctx, ref, force)
				})
				return gone, err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "delete running VMs too, and VMs with their snapshots")
	return cmd
}
