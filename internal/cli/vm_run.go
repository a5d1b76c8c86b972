package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/client"
	"banger/internal/workspace"
)

type runOptions struct {
	specOptions
	execOptions
	repo           workspaceOptions
	remove, detach bool
	timings        timingsFlag
}

func newRunCmd(a *app) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [flags] [DIR] [-- COMMAND [ARG...]]",
		Short: "create and start a VM and run a command in it",
		Long: `Create and start a VM and run a command in it. Its exit code becomes banger's.
The VM keeps running after the command, unless --rm is given. On a terminal, run
without a command opens a shell.

With DIR, the git repository that it is in is brought into the VM first (see workspace
prepare), and the command runs in it. A VM of that --name that is there already is used.

The command gets standard input only with -i. Ctrl-C before the command runs cancels
the start and undoes everything; after that it is the command's.`,
		Example: `  banger run --name web -d --memory 1G
  banger run --rm -- uname -a
  banger run --rm ./app -- make test
  echo hello | banger run --rm -i -- tr a-z A-Z`,
		Args:              runArgs,
		ValidArgsFunction: directories,
		Annotations:       map[string]string{failsWith125: "yes"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), a, cmd, args)
		},
	}
	o.specOptions.flags(a, cmd)
	o.execOptions.flags(cmd.Flags())
	cmd.Flags().BoolVar(&o.cold, "cold", false, "boot rather than thaw a template")
	cmd.Flags().BoolVar(&o.remove, "rm", false, "delete the VM when the command has ended")
	o.timings.flag(cmd.Flags())
	o.repo.flags(cmd.Flags())
	notMounts(cmd.Flags())
	complete(cmd, "mode", fixed(workspace.ShallowOverlay, workspace.FullCopy, workspace.MetadataOnly))
	cmd.Flags().BoolVarP(&o.detach, "detach", "d", false, "leave the command running and print only the VM's name")
	return cmd
}

func (o *runOptions) run(ctx context.Context, a *app, cmd *cobra.Command, argv []string) error {
	t := o.timings.begin(a)
	err := o.runTimed(ctx, a, cmd, argv, t)
	if said := t.print(a); err == nil {
		err = said
	}
	return err
}

func (o *runOptions) runTimed(ctx context.Context, a *app, cmd *cobra.Command, args []string, t *timings) error {
	before := beforeDash(cmd, args)
	argv := args[before:]
	if o.detach && (o.interactive || o.tty) {
		return api.Errorf(api.CodeInvalid, "-d and -i or -t exclude one another").WithHint("start it with -d, then: banger shell NAME")
	}
	shell := len(argv) == 0 && !o.detach && (o.interactive || a.onTerminal())
	if shell && a.onTerminal() {
		o.interactive, o.tty = true, true
	}
	if len(argv) == 0 && !shell && !o.detach && o.remove {
		return api.Errorf(api.CodeInvalid, "--rm without a command would delete the VM at once").WithHint("banger run --rm -- COMMAND, or -d to let it run")
	}
	o.autoRemove = o.remove
	git := a.gitIdentity(ctx)
	create, err := o.request(a, cmd)
	if err != nil {
		return err
	}
	spec, err := o.spec(a, argv)
	if err != nil {
		return err
	}
	spec.Main = true
	var repo *workspace.Repo
	if before > 0 {
		if repo, err = workspace.Find(ctx, a.gitHost(), args[0]); err != nil {
			return err
		}
		if err := repo.Check(ctx, o.repo.options(o.user)); err != nil {
			return err
		}
	}
	c, err := a.daemon()
	if err != nil {
		return err
	}
	create.Start, create.Cold, create.Git = true, o.cold, git()
	t.end("prepare")
	vm, made, err := o.machine(ctx, a, c, create, repo, t)
	if err != nil {
		return err
	}
	if repo != nil {
		p, err := o.bring(ctx, a, c, vm, made, repo)
		t.end("workspace")
		if err != nil {
			return err
		}
		if spec.User = p.User; spec.Cwd == "" {
			spec.Cwd = p.GuestPath
		}
		spec.Main = made
	}
	if len(argv) == 0 && !shell { // only the machine was wanted
		return a.printVM(ctx, c, vm)
	}
	if o.detach {
		return o.startMain(ctx, a, c, vm, spec, t)
	}
	code, err := t.exec(a, func() (int, error) { return a.exec(c, vm.ID, spec) })
	if o.remove {
		if gone := a.removeVM(c, vm.ID, t); gone != nil {
			if err != nil {
				a.printError(err)
			}
			return gone
		}
	} else if isTerminal(a.Err) {
		a.note("%s keeps running.   banger shell %s   banger rm -f %s", vm.Name, vm.Name, vm.Name)
	}
	if err != nil {
		return err
	}
	return exitWith(code)
}

// startMain leaves the command running behind us.
func (o *runOptions) startMain(ctx context.Context, a *app, c *client.Client, vm api.VM, spec api.ExecSpec, t *timings) error {
	_, err := c.StartMain(ctx, vm.ID, spec)
	t.end("command")
	if err != nil {
		if o.remove || ctx.Err() != nil {
			if gone := a.removeVM(c, vm.ID, nil); gone != nil {
				a.printError(gone)
			}
		}
		return err
	}
	return a.printVM(ctx, c, vm)
}

// createVM makes a VM and, where asked to, starts it. When ctx ends before that is done, all of it is undone.
// t may be nil.
func (a *app) createVM(ctx context.Context, c *client.Client, create api.VMCreate, t *timings) (api.VM, error) {
	created, err := c.CreateVM(a.hard, create)
	if err != nil {
		return created.VM, err
	}
	t.end("create")
	vm := created.VM
	if created.Operation != nil {
		op := *created.Operation
		if op.State != api.OperationDone { // one from the pool runs already
			op, err = a.follow(ctx, c, op, "")
		}
		t.operation("start", op)
	}
	if err == nil && ctx.Err() == nil {
		return vm, nil
	}
	if err == nil { // the start was through before the signal could cancel it
		err = ctx.Err()
		if create.ClientID != "" {
			return vm, err // it may have been there before this run
		}
		if gone := a.removeVM(c, vm.ID, nil); gone != nil {
			return vm, gone
		}
	}
	return vm, err
}

// removeVM deletes a VM and returns when nothing of it is left. It is done also after Ctrl-C. t may be nil.
func (a *app) removeVM(c *client.Client, id string, t *timings) error {
	ctx, cancel := context.WithTimeout(a.hard, 2*time.Minute)
	defer cancel()
	var op api.Operation // none where the daemon has deleted it by itself
	defer func() { t.operation("delete", op) }()
	for {
		begun, err := c.DeleteVM(ctx, id, true)
		if err == nil {
			op, err = a.watchQuietly(ctx, c, begun)
		}
		switch code := api.CodeOf(err); {
		case err == nil && op.State == api.OperationDone, code == api.CodeNotFound:
			return nil
		case err == nil && op.Error != nil && op.Error.Code == api.CodeNotFound:
			return nil
		case err == nil:
			return op.Error
		case code != api.CodeBusy && code != api.CodeConflict:
			return err
		}
		// The daemon is deleting it already, since its main command has ended: its events say when it is through.
		if err := a.awaitGone(ctx, c, id); err != nil {
			return err
		}
	}
}

// awaitGone returns when the VM is no more, or after a second.
func (a *app) awaitGone(ctx context.Context, c *client.Client, id string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err := c.Events(ctx, 0, true, func(e api.Event) error {
		if e.VMID == id && e.Kind == "vm.deleted" {
			return &exitError{}
		}
		return nil
	})
	if ctx.Err() != nil || err != nil {
		return nil //nolint:nilerr // the caller asks the daemon again
	}
	return nil
}

func (a *app) watchQuietly(ctx context.Context, c *client.Client, op api.Operation) (api.Operation, error) {
	return c.WatchOperation(ctx, op.ID, nil)
}

// printVM prints the name alone, or with --json the VM as it now is.
func (a *app) printVM(ctx context.Context, c *client.Client, vm api.VM) error {
	if a.json {
		now, err := c.VM(ctx, vm.ID)
		if api.CodeOf(err) == api.CodeNotFound { // removed already: its command was that short
			now, err = vm, nil
		}
		if err != nil {
			return err
		}
		return writeJSON(a.Out, now)
	}
	_, err := fmt.Fprintln(a.Out, vm.Name)
	return err
}
