package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/config"
	"banger/internal/system"
)

// endVMs has the daemon suspend or stop its VMs, as the host's shutdown does: without units nobody would. One that cannot is no reason to
// keep the units.
func (a *app) endVMs(ctx context.Context, so system.Options) {
	err := system.Rouse(so)
	if err == nil {
		var c *client.Client
		if c, err = a.runningDaemon(); err == nil {
			_, err = a.operate(ctx, c, "shutdown", func(ctx context.Context) (api.Operation, error) { return c.HostShutdown(ctx) })
		}
	}
	if err != nil {
		a.note("cannot end the machines that run: %v", err)
	}
}

// hostCmd is a command for units: it does to all VMs what the host's coming and going asks for.
func (a *app) hostCmd(use, short string, begin func(*client.Client, context.Context) (api.Operation, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: needNone, ValidArgsFunction: nothing,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.daemon()
			if err != nil {
				return err
			}
			begun := a.now()
			op, err := a.operate(cmd.Context(), c, use, func(ctx context.Context) (api.Operation, error) { return begin(c, ctx) })
			if err != nil {
				return err
			}
			if a.json {
				return writeJSON(a.Out, op)
			}
			a.note("%s: done in %s", use, config.FormatDuration(a.now().Sub(begun)))
			return nil
		},
	}
}

func newSystemShutdownCmd(a *app) *cobra.Command {
	return a.hostCmd("shutdown", "suspend or stop all VMs (on_host_shutdown); the host's shutdown calls it", (*client.Client).HostShutdown)
}

func newSystemBootCmd(a *app) *cobra.Command {
	return a.hostCmd("boot", "start the VMs that have --autostart; the host's boot calls it", func(c *client.Client, ctx context.Context) (api.Operation, error) {
		if err := system.Settle(); err != nil {
			a.note("devices may be missing yet: %v", err)
		}
		return c.HostBoot(ctx)
	})
}
