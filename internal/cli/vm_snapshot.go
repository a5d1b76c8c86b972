package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/config"
)

func newSnapshotCmd(a *app) *cobra.Command {
	cmd := group("snapshot", "snapshots: named points of a VM, with its memory and disks, to go back to")
	cmd.AddCommand(newSnapshotCreateCmd(a), newSnapshotListCmd(a), newSnapshotRestoreCmd(a), newSnapshotDeleteCmd(a))
	return cmd
}

func newSnapshotCreateCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "create VM [NAME]", Short: "snapshot a running, paused or suspended VM",
		Long: `Snapshot a VM: its memory, root disk and work disk, all of one instant. A running VM
stands still for some milliseconds. Without NAME the snapshot is named s1, s2, and so on.`,
		Example: `  banger vm snapshot create web before-upgrade
  banger vm snapshot restore -f web before-upgrade
  banger run --snapshot web/before-upgrade -- hostname`,
		Args:              between(1, 2, "a VM, and may have a name for the snapshot"),
		ValidArgsFunction: a.vmNames(1, func(vm api.VM) bool { return vm.State != api.StateStopped }),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon()
			if err != nil {
				return err
			}
			create := api.SnapshotCreate{}
			if len(args) > 1 {
				create.Name = args[1]
			}
			vm := ref(args[0])
			op, err := a.operate(cmd.Context(), c, "", func(ctx context.Context) (api.Operation, error) {
				return c.CreateSnapshot(ctx, vm, create)
			})
			if err != nil {
				return err
			}
			if !a.json {
				_, err = fmt.Fprintln(a.Out, op.Result)
				return err
			}
			snap, err := c.Snapshot(cmd.Context(), vm, op.Result)
			if err != nil {
				return err
			}
			return writeJSON(a.Out, snap)
		},
	}
}

func newSnapshotListCmd(a *app) *cobra.Command {
	return ofVMs[api.Snapshot]{kind: "snapshot", complete: a.vmNames(1, hasSnapshots), list: (*client.Client).Snapshots, listing: listing[api.Snapshot]{
		heading: []string{"SNAPSHOT", "CPUS", "MEMORY", "DISK", "ROOT", "USED", "CREATED"},
		row: func(a *app, s api.Snapshot) []string {
			return []string{s.VM + "/" + s.Name, fmt.Sprint(s.Spec.CPUs), config.FormatSize(s.Spec.MemoryBytes), config.FormatSize(s.Spec.DiskBytes),
				config.FormatSize(s.Spec.RootBytes), config.FormatSize(s.UsedBytes), a.ago(s.CreatedAt)}
		},
		word: func(s api.Snapshot) string { return s.VM + "/" + s.Name },
	}}.command(a)
}

func newSnapshotRestoreCmd(a *app) *cobra.Command {
	var restore api.SnapshotRestore
	cmd := &cobra.Command{
		Use: "restore [flags] VM NAME", Short: "put a VM back to a snapshot, and let it go on from there",
		Long: `Put a VM back to a snapshot: memory, disks and sizes are as they were, name, address and
keys stay, the clock is set. What the VM has done since is lost; a running or paused VM is
put back only with -f.`,
		Args: between(2, 2, "a VM and the name of a snapshot"), ValidArgsFunction: a.completeSnapshots(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon()
			if err != nil {
				return err
			}
			vm := ref(args[0])
			_, err = a.operate(cmd.Context(), c, "", func(ctx context.Context) (api.Operation, error) {
				return c.RestoreSnapshot(ctx, vm, args[1], restore)
			})
			if err != nil {
				return err
			}
			now, err := a.vmAfter(cmd.Context(), c, vm)
			if err != nil {
				return err
			}
			return a.printResult(args[0], now)
		},
	}
	cmd.Flags().BoolVarP(&restore.Force, "force", "f", false, "throw away the present state of a running VM")
	return cmd
}

func newSnapshotDeleteCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "delete VM NAME...", Aliases: []string{"rm"}, Short: "delete snapshots of a VM",
		Args: between(2, -1, "a VM and the name of at least one snapshot"), ValidArgsFunction: a.completeSnapshots(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.inTurn(unique(args[1:]), func(c *client.Client, name string) (any, error) {
				return c.DeleteSnapshot(cmd.Context(), ref(args[0]), name)
			})
		},
	}
}

// between wants so many positionals, none of them empty; most is -1 for any number.
func between(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		bad := len(args) < least || most >= 0 && len(args) > most
		for _, arg := range args {
			bad = bad || arg == ""
		}
		if bad {
			return api.Errorf(api.CodeInvalid, "%s takes %s", cmd.CommandPath(), what).WithHint("usage: %s", cmd.UseLine())
		}
		return nil
	}
}

func hasSnapshots(vm api.VM) bool { return len(vm.Snapshots) > 0 }

// completeSnapshots offers a VM, then its snapshots, up to most words.
func (a *app) completeSnapshots(most int) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return a.vmNames(1, hasSnapshots)(cmd, args, word)
		}
		if most > 0 && len(args) >= most {
			return nil, noFiles
		}
		return a.snapshotNames(args[1:], func(s api.Snapshot) (string, bool) { return s.Name, s.VM == ref(args[0]) || s.VMID == args[0] })
	}
}

// completeSnapshotRef offers VM/NAME.
func (a *app) completeSnapshotRef(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return a.snapshotNames(nil, func(s api.Snapshot) (string, bool) { return s.VM + "/" + s.Name, true })
}
