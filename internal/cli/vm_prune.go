package cli

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/config"
)

type pruneOptions struct{ dryRun, force bool }

func newPruneCmd(a *app) *cobra.Command {
	var o pruneOptions
	cmd := &cobra.Command{
		Use:               "prune [flags]",
		Short:             "delete stopped VMs, and images and kernels that nothing uses",
		Long:              "Delete stopped VMs with their disks, and images and kernels that nothing uses. VMs that\nhave snapshots stay. It asks first, unless -f is given.",
		Args:              needNone,
		ValidArgsFunction: nothing,
		RunE:              func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), a) },
	}
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "only say what would be deleted")
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "do not ask")
	return cmd
}

func (o *pruneOptions) run(ctx context.Context, a *app) error {
	c, err := a.daemon()
	if err != nil {
		return err
	}
	if !o.dryRun && !o.force {
		plan, err := c.Prune(ctx, true)
		if err != nil {
			return err
		}
		if len(plan.VMs)+len(plan.Images)+len(plan.Kernels) > 0 {
			if !isTerminal(a.In) {
				return api.Errorf(api.CodeInvalid, "prune asks before it deletes, and standard input is no terminal").WithHint("banger prune -f, or banger prune --dry-run")
			}
			a.listPrune(plan, "would be deleted")
			fmt.Fprint(a.Err, "delete all that? [y/N] ")
			if !a.confirmed(ctx) {
				return api.Errorf(api.CodeCancelled, "nothing was deleted")
			}
		}
	}
	result, err := c.Prune(ctx, o.dryRun)
	if err != nil {
		return err
	}
	if a.json {
		return writeJSON(a.Out, result)
	}
	for _, name := range slices.Concat(result.VMs, result.Images, result.Kernels) {
		if _, err := fmt.Fprintln(a.Out, name); err != nil {
			return err
		}
	}
	for _, name := range result.Kept {
		a.note("%s stays, since it has snapshots.   banger rm -f %s", printable(name), printable(name))
	}
	a.note("%s %s", config.FormatSize(result.ReclaimedBytes), map[bool]string{true: "would be reclaimed", false: "reclaimed"}[o.dryRun])
	return nil
}

func (a *app) listPrune(p api.PruneResult, what string) {
	for _, kind := range []struct {
		name  string
		items []string
	}{{"VM", p.VMs}, {"image", p.Images}, {"kernel", p.Kernels}} {
		for _, item := range kind.items {
			a.note("%-7s %s %s", kind.name, printable(item), what)
		}
	}
}

// confirmed reads the answer; Ctrl-C is a no.
func (a *app) confirmed(ctx context.Context) bool {
	answer := make(chan string, 1)
	go func() {
		line, err := bufio.NewReader(a.In).ReadString('\n')
		if err != nil {
			line = ""
		}
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case s := <-answer:
		return s == "y" || s == "yes"
	case <-ctx.Done():
		fmt.Fprintln(a.Err)
		return false
	}
}
