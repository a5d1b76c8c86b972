package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
)

// vmWork is a command that begins one operation on each of several VMs.
type vmWork struct {
	use, short, long string
	begin            func(context.Context, *client.Client, string) (api.Operation, error)
	complete         completer
}

func (w vmWork) command(a *app) *cobra.Command {
	return &cobra.Command{
		Use: w.use, Short: w.short, Long: w.long,
		Args:              needRefs,
		ValidArgsFunction: w.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachVM(cmd.Context(), args, func(ctx context.Context, c *client.Client, ref, label string) (any, error) {
				_, err := a.operate(ctx, c, label, func(ctx context.Context) (api.Operation, error) { return w.begin(ctx, c, ref) })
				if err != nil {
					return nil, err
				}
				return a.vmAfter(ctx, c, ref)
			})
		},
	}
}

func newStartCmd(a *app) *cobra.Command {
	var start api.VMStart
	cmd := vmWork{
		use: "start [flags] VM...", short: "start stopped VMs; let suspended ones go on", complete: a.completeStopped,
		begin: func(ctx context.Context, c *client.Client, ref string) (api.Operation, error) {
			return c.StartVM(ctx, ref, start)
		},
	}.command(a)
	cmd.Flags().BoolVar(&start.Cold, "cold", false, "boot rather than thaw a template")
	cmd.Flags().BoolVar(&start.DiscardMemory, "discard-memory", false, "boot a suspended VM as after a power cut; its frozen memory is lost")
	return cmd
}

// stopRequest is --timeout, or the configured stop_timeout where somebody set it.
func (a *app) stopRequest(timeout durationFlag) (api.VMStop, error) {
	cfg, err := a.config()
	if err != nil {
		return api.VMStop{}, err
	}
	if !timeout.set && cfg.Explicit("stop_timeout") {
		return api.VMStop{TimeoutMS: cfg.StopTimeout.Milliseconds()}, nil
	}
	return api.VMStop{TimeoutMS: timeout.milliseconds()}, nil
}

func newStopCmd(a *app) *cobra.Command {
	var timeout durationFlag
	cmd := vmWork{
		use: "stop [flags] VM...", short: "stop VMs: asked first, then forced", complete: a.completeRunning,
		long: "Stop VMs. Each guest is asked to end its programs, sync and power off; one that has not\ndone so after --timeout is powered off, which is still a success.",
		begin: func(ctx context.Context, c *client.Client, ref string) (api.Operation, error) {
			stop, err := a.stopRequest(timeout)
			if err != nil {
				return api.Operation{}, err
			}
			return c.StopVM(ctx, ref, stop)
		},
	}.command(a)
	cmd.Flags().VarP(&timeout, "timeout", "t", "how long a guest may take before it is forced (default 10s)")
	return cmd
}

func newRestartCmd(a *app) *cobra.Command {
	var timeout durationFlag
	cmd := vmWork{
		use: "restart [flags] VM...", short: "stop and start VMs", complete: a.completeVMs,
		begin: func(ctx context.Context, c *client.Client, ref string) (api.Operation, error) {
			stop, err := a.stopRequest(timeout)
			if err != nil {
				return api.Operation{}, err
			}
			return c.RestartVM(ctx, ref, stop)
		},
	}.command(a)
	cmd.Flags().VarP(&timeout, "timeout", "t", "how long a guest may take before it is forced (default 10s)")
	return cmd
}

func newKillCmd(a *app) *cobra.Command {
	return vmWork{
		use: "kill VM...", short: "power VMs off at once", complete: a.completeRunning,
		long: "Power VMs off at once, like pulling the plug. What a guest has not written is lost.\nTo send a signal to a VM's main command, use banger signal.",
		begin: func(ctx context.Context, c *client.Client, ref string) (api.Operation, error) {
			return c.KillVM(ctx, ref)
		},
	}.command(a)
}

func newResetCmd(a *app) *cobra.Command {
	var root sizeFlag
	cmd := vmWork{
		use: "reset [flags] VM...", short: "give VMs a fresh root disk; /root and /home stay", complete: a.completeVMs,
		long: "Give VMs a fresh root disk from their image. The work disk, mounted at /root and /home,\nkeeps everything.",
		begin: func(ctx context.Context, c *client.Client, ref string) (api.Operation, error) {
			return c.ResetVM(ctx, ref, api.VMReset{RootBytes: root.bytes})
		},
	}.command(a)
	cmd.Flags().Var(&root, "root-size", "size of the new root disk (default: as it was)")
	return cmd
}
