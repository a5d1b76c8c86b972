package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/workspace"
)

type exportOptions struct {
	guestPath, base, output, user string
	apply, untracked              bool
}

func newWorkspaceExportCmd(a *app) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use: "export [flags] VM", Short: "take a patch of what was done in a VM's repository",
		Long: `Print a patch of all that was done in a repository of a running VM, for git apply: commits
since the one that was brought, and what is not committed. Untracked files are in it only
with --include-untracked. The repository in the guest stays as it is. The files that the
patch changes are listed: on stderr where the patch goes to stdout.

--apply applies it to the repository on this side that was brought, all of it or nothing;
it then has only what was done in the guest, not what was uncommitted when it was brought.`,
		Example: `  banger vm workspace export web > work.patch
  banger vm workspace export --include-untracked --apply web`,
		Args:              needOne("a VM", "banger ps lists them"),
		ValidArgsFunction: a.vmNames(1, hasWorkspace),
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, ref(args[0])) },
	}
	f := cmd.Flags()
	f.StringVar(&o.guestPath, "guest-path", "", "`PATH` of the repository in the guest (default: where it was brought to)")
	f.StringVar(&o.base, "base-commit", "", "the patch is against the commit `SHA` (default: the one that was brought)")
	f.StringVarP(&o.output, "output", "o", "", "write the patch to `FILE`")
	f.StringVarP(&o.user, "user", "u", "", "`USER` in the guest that git runs as (default: the repository's owner, as it was brought)")
	f.BoolVar(&o.apply, "apply", false, "apply the patch to the repository on this side")
	f.BoolVar(&o.untracked, "include-untracked", false, "take files that git does not track, too, unless it ignores them")
	return cmd
}

func (o *exportOptions) run(ctx context.Context, a *app, name string) error {
	if a.json && o.output == "" && !o.apply {
		return api.Errorf(api.CodeInvalid, "--json is about the patch, so the patch needs another place").WithHint("--output FILE, or --apply")
	}
	c, err := a.daemon()
	if err != nil {
		return err
	}
	vm, err := c.VM(ctx, name)
	if err != nil {
		return err
	}
	here := ""
	if repo, err := workspace.Find(ctx, a.gitHost(), "."); err == nil {
		here = repo.Top
	}
	w, known := recorded(vm, o.guestPath, here)
	var target *workspace.Repo
	if o.apply {
		if !known {
			return api.Errorf(api.CodeConflict, "which repository to apply to is not known: none of VM %s is recorded at that place", vm.Name).
				WithHint("--output FILE, then: git apply FILE")
		}
		if target, err = workspace.Find(ctx, a.gitHost(), w.HostPath); err != nil {
			return err
		}
	}
	e := workspace.ExportOptions{
		GuestPath: o.guestPath, User: o.user, Base: o.base, IncludeUntracked: o.untracked, SincePrepared: o.apply && o.base == "",
	}
	if known {
		e.GuestPath = w.GuestPath
		if e.User == "" {
			e.User = w.User
		}
	}
	defer a.sayWaking(c, vm.ID)()
	return o.export(ctx, a, c, vm, e, target)
}

func (o *exportOptions) export(ctx context.Context, a *app, c *client.Client, vm api.VM, e workspace.ExportOptions, target *workspace.Repo) error {
	dir := ""
	if o.output != "" {
		dir = filepath.Dir(o.output)
	}
	// Whole or not at all: a patch that was cut off may still apply.
	file, err := os.CreateTemp(dir, ".banger-export-*")
	if err != nil {
		return api.Errorf(api.CodeInvalid, "cannot write the patch: %w", err)
	}
	defer os.Remove(file.Name()) // fails once it has been renamed
	defer file.Close()
	buffered := bufio.NewWriter(file)
	list, err := workspace.Export(ctx, guest{c, vm.ID}, e, buffered)
	if err == nil {
		err = buffered.Flush()
	}
	if err != nil {
		return err
	}
	result := exported{Files: list, Output: o.output}
	if result.Bytes, err = file.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	if target != nil {
		if err := target.Apply(ctx, file.Name()); err != nil {
			return err
		}
		result.Applied = target.Top
	}
	text := a.Out
	switch {
	case o.output != "":
		if err := errors.Join(file.Chmod(0o644), os.Rename(file.Name(), o.output)); err != nil {
			return api.Errorf(api.CodeInvalid, "cannot write the patch: %w", err)
		}
	case target == nil:
		text = a.Err
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.Copy(a.Out, file); err != nil {
			return fmt.Errorf("cannot write the patch: %w", err)
		}
	}
	if a.json {
		return writeJSON(a.Out, result)
	}
	for _, c := range list {
		if _, err := fmt.Fprintln(text, changeLine(c)); err != nil {
			return err
		}
	}
	if len(list) == 0 {
		a.note("nothing has changed")
	}
	return nil
}
