package cli

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger/api"
	"banger/internal/workspace"
)

func newWorkspaceCmd(a *app) *cobra.Command {
	cmd := group("workspace", "workspaces: bring a git repository into a VM, take a patch out")
	cmd.AddCommand(newWorkspacePrepareCmd(a), newWorkspaceExportCmd(a))
	return cmd
}

// workspaceOptions are the flags that say what is brought, spelled the same for run.
type workspaceOptions struct {
	mode, branch, from, guestPath string
	untracked                     bool
}

func (o *workspaceOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.branch, "branch", "", "make the branch `B` in the guest and check it out")
	f.StringVar(&o.from, "from", "", "the branch begins at `REF` of this side (default: HEAD); files are then as that commit has them")
	f.StringVar(&o.guestPath, "guest-path", "", "`PATH` of the repository in the guest (default: repo in the user's home)")
	f.StringVar(&o.mode, "mode", "", "shallow_overlay: short history, files as they are on disk (default); full_copy: whole history; metadata_only: files as committed")
	f.BoolVar(&o.untracked, "include-untracked", false, "bring files that git does not track, too, unless it ignores them")
}

func (o *workspaceOptions) options(user string) workspace.Options {
	return workspace.Options{Mode: o.mode, Branch: o.branch, From: o.from, GuestPath: o.guestPath, User: user, IncludeUntracked: o.untracked}
}

type prepareOptions struct {
	workspaceOptions
	user                    string
	readOnly, dryRun, force bool
}

func newWorkspacePrepareCmd(a *app) *cobra.Command {
	var o prepareOptions
	cmd := &cobra.Command{
		Use: "prepare [flags] VM [PATH]", Short: "bring a git repository into a running VM",
		Long: `Bring the git repository that PATH is in (default: this directory) into a running VM: the
last ten commits, and the tracked files as they are on disk, with what is staged. Untracked
files come only with --include-untracked. Nothing that the repository configures is run here.

Where it was brought before, it goes on from there if nothing was done in the guest since;
otherwise that is refused with a list. --force keeps what is there under a reference first.
It prints the path in the guest.`,
		Example: `  banger vm workspace prepare web
  banger vm workspace prepare --branch fix web ~/src/app
  banger exec -w /root/repo web -- make test`,
		Args:              between(1, 2, "a VM, and may have a path of a repository"),
		ValidArgsFunction: a.completeRunningOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "."
			if len(args) > 1 {
				path = args[1]
			}
			return o.run(a, cmd, ref(args[0]), path)
		},
	}
	f := cmd.Flags()
	o.flags(f)
	f.StringVarP(&o.user, "user", "u", "", "`OWNER` in the guest, optionally USER:GROUP (default: root)")
	f.BoolVar(&o.readOnly, "readonly", false, "take the right to write from the files in the guest (root may write all the same)")
	f.BoolVar(&o.dryRun, "dry-run", false, "only tell what would be brought")
	f.BoolVar(&o.force, "force", false, "replace what was changed in the guest, after keeping it under refs/banger/before-TIME")
	complete(cmd, "mode", fixed(workspace.ShallowOverlay, workspace.FullCopy, workspace.MetadataOnly))
	return cmd
}

func (o *prepareOptions) run(a *app, cmd *cobra.Command, name, path string) error {
	ctx := cmd.Context()
	opts := o.options(o.user)
	opts.ReadOnly, opts.DryRun, opts.Force = o.readOnly, o.dryRun, o.force
	repo, err := workspace.Find(ctx, a.gitHost(), path)
	if err != nil {
		return err
	}
	if err := repo.Check(ctx, opts); err != nil {
		return err
	}
	c, err := a.daemon()
	if err != nil {
		return err
	}
	vm, err := c.VM(ctx, name)
	if err != nil {
		return err
	}
	if w, ok := recorded(vm, o.guestPath, repo.Top); ok && w.HostPath == repo.Top && !cmd.Flags().Changed("user") {
		opts.User = w.User
		if o.guestPath == "" {
			opts.GuestPath = w.GuestPath
		}
	}
	defer a.sayWaking(c, vm.ID)()
	p, err := a.prepare(ctx, c, vm, repo, opts)
	if err != nil {
		return err
	}
	a.sayPrepared(vm, p, o.dryRun)
	if a.json {
		return writeJSON(a.Out, p.Workspace)
	}
	_, err = fmt.Fprintln(a.Out, p.GuestPath)
	return err
}

// changeLine is a change in a few words.
func changeLine(c workspace.Change) string {
	if c.From != "" {
		return fmt.Sprintf("%s %s -> %s", c.Kind, printable(c.From), printable(c.Path))
	}
	return c.Kind + " " + printable(c.Path)
}

// exported is what export prints with --json.
type exported struct {
	Files   []workspace.Change `json:"files"`
	Bytes   int64              `json:"bytes"`
	Output  string             `json:"output,omitempty"`
	Applied string             `json:"applied,omitempty"`
}

// hasWorkspace offers VMs that a repository was brought to.
func hasWorkspace(vm api.VM) bool { return len(vm.Workspaces) > 0 }
