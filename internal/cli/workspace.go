package cli

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"banger/api"
	"banger/client"
	"banger/internal/workspace"
)

// guest is a VM as package workspace sees it.
type guest struct {
	c  *client.Client
	vm string
}

func (g guest) Run(ctx context.Context, c workspace.Command) (int, error) {
	spec := api.ExecSpec{Argv: c.Argv, Env: c.Env, User: c.User, Stdin: c.Stdin != nil}
	res, err := g.c.Exec(ctx, g.vm, spec, client.ExecIO{Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr})
	return res.ExitCode, err
}

func (g guest) Put(ctx context.Context, dir, user string, tar io.Reader) error {
	return g.c.PutTree(ctx, g.vm, dir, user, tar)
}

func (a *app) gitHost() workspace.Host { return workspace.Host{Environ: a.Environ} }

// prepare brings a repository into a VM and has the daemon remember it.
func (a *app) prepare(ctx context.Context, c *client.Client, vm api.VM, repo *workspace.Repo, o workspace.Options) (workspace.Prepared, error) {
	p, err := repo.Prepare(ctx, guest{c, vm.ID}, o, a.now())
	if err != nil || o.DryRun {
		return p, err
	}
	_, err = c.RecordWorkspace(ctx, vm.ID, p.Workspace)
	return p, err
}

// sayPrepared tells a person what was brought.
func (a *app) sayPrepared(vm api.VM, p workspace.Prepared, dry bool) {
	for _, n := range p.Notes {
		a.note("%s", n)
	}
	at := "no commit yet"
	if p.Head != "" {
		at = short(p.Head)
		if p.Branch != "" {
			at = p.Branch + " at " + at
		}
	}
	files := fmt.Sprintf("%d files", p.Files)
	if p.Changed > 0 && p.Head != "" {
		files += fmt.Sprintf(", %d of them not as committed", p.Changed)
	}
	done := "brought to"
	switch {
	case dry && p.Fresh:
		done = "would be brought to"
	case dry:
		done = "would go on in"
	case p.Same:
		done = "is already in"
	}
	a.note("%s (%s, %s) %s %s:%s", printable(p.HostPath), printable(at), files, done, vm.Name, printable(p.GuestPath))
	if p.Kept != "" {
		a.note("what was there is kept:   banger exec %s -- git -C %s log -p %s", vm.Name, printable(p.GuestPath), p.Kept)
	}
}

// recorded is the VM's record of the repository at a place in the guest; for an empty one, of the repository here, or of the only one.
// Of several it is the one that was brought last.
func recorded(vm api.VM, guestPath, hostPath string) (last api.Workspace, found bool) {
	for _, w := range vm.Workspaces {
		here := guestPath == "" && hostPath != "" && w.HostPath == hostPath
		there := guestPath != "" && (w.GuestPath == guestPath || !filepath.IsAbs(guestPath) && strings.HasSuffix(w.GuestPath, "/"+strings.TrimPrefix(guestPath, "~/")))
		if (here || there) && (!found || w.PreparedAt.After(last.PreparedAt)) {
			last, found = w, true
		}
	}
	if !found && guestPath == "" && len(vm.Workspaces) == 1 {
		return vm.Workspaces[0], true
	}
	return last, found
}

// warnTime bounds the look at the host's repositories beside an exec.
const warnTime = 2 * time.Second

// watchWorkspaces looks, beside a command in a VM, whether the repositories that were brought there have moved on on this side. The
// caller calls the returned function when the command is over: it waits for the look, and tells.
func (a *app) watchWorkspaces(c *client.Client, ref, workdir string) func() {
	ctx, cancel := context.WithTimeout(a.hard, warnTime)
	notes := make(chan []string, 1)
	go func() {
		vm, err := c.VM(ctx, ref)
		if err != nil {
			notes <- nil
			return
		}
		var list []string
		for _, w := range within(vm.Workspaces, workdir) {
			repo, err := workspace.Find(ctx, a.gitHost(), w.HostPath)
			if err != nil {
				continue // moved or gone: nothing to bring once more
			}
			if head, err := repo.Head(ctx); err == nil && head != w.Head {
				list = append(list, fmt.Sprintf("%s has moved on to %s since it was brought to %s:%s. Bring it again: banger exec --sync, or banger vm workspace prepare %s %s",
					printable(w.HostPath), short(head), vm.Name, printable(w.GuestPath), vm.Name, printable(w.HostPath)))
			}
		}
		notes <- list
	}()
	return func() {
		defer cancel()
		for _, n := range <-notes {
			a.note("banger: %s", n)
		}
	}
}

// within are the workspaces that a command's working directory is in; all, where that says nothing.
func within(list []api.Workspace, workdir string) []api.Workspace {
	for _, w := range list {
		if workdir == w.GuestPath || strings.HasPrefix(workdir, w.GuestPath+"/") {
			return []api.Workspace{w}
		}
	}
	return list
}

// syncWorkspaces brings the repositories of a VM once more, each as it was brought last.
func (a *app) syncWorkspaces(ctx context.Context, c *client.Client, ref, workdir string) error {
	vm, err := c.VM(ctx, ref)
	if err != nil {
		return err
	}
	if len(vm.Workspaces) == 0 {
		return api.Errorf(api.CodeConflict, "no repository was brought to VM %s", vm.Name).WithHint("banger vm workspace prepare %s PATH", vm.Name)
	}
	for _, w := range within(vm.Workspaces, workdir) {
		repo, err := workspace.Find(ctx, a.gitHost(), w.HostPath)
		if err != nil {
			return err
		}
		o := workspace.Options{Mode: w.Mode, GuestPath: w.GuestPath, User: w.User, IncludeUntracked: w.IncludeUntracked, ReadOnly: w.ReadOnly}
		p, err := a.prepare(ctx, c, vm, repo, o)
		if err != nil {
			return err
		}
		if !p.Same {
			a.sayPrepared(vm, p, false)
		}
	}
	return nil
}
