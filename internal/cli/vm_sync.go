package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/workspace"
)

type syncOptions struct {
	workspace.SyncOptions
	watch bool
}

func newSyncCmd(a *app) *cobra.Command {
	var o syncOptions
	cmd := &cobra.Command{
		Use: "sync [flags] VM HOST:GUEST", Short: "bring what has changed in a folder into a running VM",
		Long: `Bring a folder of this side into a running VM: one way, and only files that differ in size,
time, kind, or the right to be executed. GUEST is absolute, or below the user's home. What
was changed in the guest is overwritten where it differs; what is only there stays, unless
--delete is given. For a git repository see workspace prepare, which overwrites nothing.`,
		Example: `  banger vm sync web ./site:/srv/site
  banger vm sync --watch --delete --exclude node_modules web .:app`,
		Args:              between(2, 2, "a VM and HOST:GUEST"),
		ValidArgsFunction: a.completeRunningOne,
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, ref(args[0]), args[1]) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.watch, "watch", false, "go on until Ctrl-C: bring each change")
	f.BoolVar(&o.Delete, "delete", false, "remove from the guest's folder what is not on this side")
	f.StringArrayVar(&o.Exclude, "exclude", nil, "leave alone what matches the `PATTERN`: a name anywhere, or with a slash a path below the folder")
	f.StringVarP(&o.User, "user", "u", "", "`OWNER` in the guest, optionally USER:GROUP (default: root)")
	return cmd
}

func (o *syncOptions) run(ctx context.Context, a *app, name, paths string) error {
	cut := strings.LastIndexByte(paths, ':')
	if cut <= 0 || cut == len(paths)-1 {
		return api.Errorf(api.CodeInvalid, "%q is not HOST:GUEST", paths).WithHint("banger vm sync %s DIR:/root/DIR", name)
	}
	o.Guest = paths[cut+1:]
	folder, err := workspace.OpenFolder(paths[:cut], o.SyncOptions)
	if err != nil {
		return err
	}
	defer folder.Close()
	c, err := a.daemon()
	if err != nil {
		return err
	}
	vm, err := c.VM(ctx, name)
	if err != nil {
		return err
	}
	defer a.sayWaking(c, vm.ID)()
	rounds := 0
	round := func() error {
		done, err := folder.Sync(ctx, guest{c, vm.ID})
		if err != nil {
			return err
		}
		rounds++
		for _, s := range done.Skipped {
			if rounds == 1 {
				a.note("left out: %s (neither a file, a directory nor a symbolic link)", printable(s))
			}
		}
		if o.watch && rounds > 1 && done.Sent+done.Removed == 0 {
			return nil
		}
		if a.json {
			return writeJSONLine(a.Out, done)
		}
		_, err = fmt.Fprintf(a.Out, "%d files sent, %d removed\n", done.Sent, done.Removed)
		return err
	}
	if !o.watch {
		return round()
	}
	if err := folder.Watch(ctx, round); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return ctx.Err()
}
