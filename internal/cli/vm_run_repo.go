package cli

import (
	"context"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger/api"
	"banger/client"
	"banger/internal/workspace"
)

// repoFlags are the flags of run that speak of a repository.
var repoFlags = []string{"branch", "from", "guest-path", "mode", "include-untracked"}

// runArgs lets one directory stand before --, and explains what somebody used to other tools probably meant.
func runArgs(cmd *cobra.Command, args []string) error {
	before := beforeDash(cmd, args)
	if before == 0 {
		for _, f := range repoFlags {
			if cmd.Flags().Changed(f) {
				return api.Errorf(api.CodeInvalid, "--%s is about a repository, and none is given", f).WithHint("banger run --%s … DIR", f)
			}
		}
		return nil
	}
	word := args[0]
	if info, err := os.Stat(word); err != nil || !info.IsDir() {
		return api.Errorf(api.CodeInvalid, "no directory '%s'. Image: banger run --image %s. Command: banger run -- %s", word, word, word)
	}
	if before > 1 {
		return api.Errorf(api.CodeInvalid, "%q stands behind the directory", args[1]).WithHint("put -- before the guest's command: %s", cmd.UseLine())
	}
	return nil
}

// beforeDash is how many positionals are not the guest's command.
func beforeDash(cmd *cobra.Command, args []string) int {
	if dash := cmd.ArgsLenAtDash(); dash >= 0 {
		return dash
	}
	return len(args)
}

// machine is the VM that a run uses; made is false for one that was there before.
func (o *runOptions) machine(ctx context.Context, a *app, c *client.Client, create api.VMCreate, repo *workspace.Repo, t *timings) (vm api.VM, made bool, err error) {
	if repo == nil {
		vm, err = a.createVM(ctx, c, create, t)
		return vm, true, err
	}
	if create.Name != "" {
		vm, err = c.VM(ctx, create.Name)
		if err == nil && vm.Name == create.Name {
			return o.existing(ctx, a, c, vm)
		}
		if err != nil && api.CodeOf(err) != api.CodeNotFound {
			return vm, false, err
		}
	}
	if err := o.needGit(ctx, a, c, create); err != nil {
		return vm, false, err
	}
	vm, err = a.createVM(ctx, c, create, t)
	return vm, true, err
}

// existing makes a VM that was there before run.
func (o *runOptions) existing(ctx context.Context, a *app, c *client.Client, vm api.VM) (api.VM, bool, error) {
	if o.remove {
		return vm, false, api.Errorf(api.CodeInvalid, "VM %s was there before, so --rm does not delete it", vm.Name).WithHint("leave out --rm, or take another name")
	}
	if vm.State == api.StateRunning {
		return vm, false, nil
	}
	_, err := a.operate(ctx, c, "", func(ctx context.Context) (api.Operation, error) { return c.StartVM(ctx, vm.ID, api.VMStart{}) })
	return vm, false, err
}

// needGit refuses an image that is known to have no git.
func (o *runOptions) needGit(ctx context.Context, a *app, c *client.Client, create api.VMCreate) error {
	name := create.Spec.Image
	if create.Snapshot != "" {
		return nil // the guest is asked
	}
	if cfg, err := a.config(); err == nil && name == "" {
		name = cfg.Image
	}
	image, err := c.Image(ctx, name)
	if err != nil || image.HasGit {
		return nil //nolint:nilerr // one that is not there is somebody else's to tell, or is built first
	}
	return api.Errorf(api.CodeUnsupported, "image %s has no git, which a repository needs", image.Name).WithHint("--image debian, which has it; or bring the files only: banger cp DIR NAME:")
}

// bring brings the repository. A VM that was made for it is of no use without.
func (o *runOptions) bring(ctx context.Context, a *app, c *client.Client, vm api.VM, made bool, repo *workspace.Repo) (workspace.Prepared, error) {
	opts := o.repo.options(o.user)
	if w, ok := recorded(vm, o.repo.guestPath, repo.Top); ok && w.HostPath == repo.Top {
		if o.user == "" {
			opts.User = w.User
		}
		if o.repo.guestPath == "" {
			opts.GuestPath = w.GuestPath
		}
	}
	p, err := a.prepare(ctx, c, vm, repo, opts)
	if err == nil {
		if isTerminal(a.Err) || len(p.Notes) > 0 {
			a.sayPrepared(vm, p, false)
		}
		return p, nil
	}
	if made {
		if gone := a.removeVM(c, vm.ID, nil); gone != nil {
			a.printError(gone)
		}
	}
	return p, err
}

// notMounts recognises what other tools mount with: a guest sees nothing of this host's files.
func notMounts(f *pflag.FlagSet) {
	f.VarP(notMount("-v"), "volume", "v", "recognised, and answered with what to use instead")
	f.Var(notMount("--mount"), "mount", "the same")
	for _, name := range []string{"volume", "mount"} {
		_ = f.MarkHidden(name) // it is there
	}
}

type notMount string

func (n notMount) Set(string) error {
	return api.Errorf(api.CodeUnsupported, "%s: nothing of this host is mounted in a guest", string(n)).
		WithHint("a repository: banger run DIR; a folder: banger vm sync NAME DIR:/PATH; once: banger cp DIR NAME:/PATH")
}

func (notMount) Type() string   { return "" }
func (notMount) String() string { return "" }
