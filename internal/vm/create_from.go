package vm

import (
	"context"
	"errors"
	"os"
	"slices"

	"banger/api"
	"banger/internal/durable"
	"banger/internal/operation"
)

// createFrom reserves a VM that goes on from a snapshot, as a machine of its own: a fork of a moment that has passed. It is
// suspended, and its start thaws it.
func (cr *creates) createFrom(ctx context.Context, c api.VMCreate, request string) (api.VM, *operation.Operation, bool, error) {
	fail := func(err error) (api.VM, *operation.Operation, bool, error) { return api.VM{}, nil, false, err }
	ref, name, err := api.SplitSnapshot(c.Snapshot)
	if err != nil {
		return fail(err)
	}
	source, err := cr.records.Get(ctx, ref)
	if err != nil {
		return fail(err)
	}
	snap, unlock, err := cr.snapshots.hold(ctx, source, name)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	vm := api.VM{
		ID: cr.newID(), Name: c.Name, ClientID: c.ClientID, State: api.StateStopped, Spec: snap.Spec,
		Pending: []string{}, CreatedAt: cr.now().UTC(), Workspaces: slices.Clone(source.Workspaces), Git: source.Git,
	}
	if c.Git != nil {
		vm.Git = c.Git
	}
	own := cr.specs.withDefaults(c.Spec)
	vm.Spec.Labels, vm.Spec.AutoRemove, vm.Spec.Autostart, vm.Spec.IdleSuspendMS = own.Labels, own.AutoRemove, own.Autostart, own.IdleSuspendMS
	if vm.Spec, err = cr.specs.forHost(ctx, vm.Spec); err != nil {
		return fail(err)
	}
	cr.specs.derive(&vm)
	r := &vm.Runtime
	r.ImageDigest, r.KernelDigest = source.Runtime.ImageDigest, source.Runtime.KernelDigest
	r.ForkOf, r.Forking = source.ID, true
	cr.snapshots.lieOn(&vm, snap)
	at, err := cr.snapshots.canThaw(ctx, vm, snap)
	if err != nil {
		return fail(err)
	}
	r.Thawed = at.TemplateID != ""
	// Nobody starts it before it is whole.
	unlockNew, err := cr.locks.Lock(ctx, vm.ID)
	if err != nil {
		return fail(err)
	}
	made, created, err := cr.insert(ctx, vm, request)
	if err == nil && created {
		made, err = cr.fillFrom(context.WithoutCancel(ctx), made, snap, at)
	}
	unlockNew()
	if err != nil {
		if created {
			err = errors.Join(err, cr.remove(context.WithoutCancel(ctx), vm.ID))
		}
		return fail(err)
	}
	cr.records.Wake()
	return cr.startCreated(made, created, c)
}

// fillFrom makes the disks and the frozen state of a VM that has been reserved for a snapshot. It is whole once its state has its
// name: a daemon that finds it without one removes it.
func (cr *creates) fillFrom(ctx context.Context, vm api.VM, snap api.Snapshot, at point) (api.VM, error) {
	p := cr.paths.VM(vm.ID)
	if err := cr.snapshots.layOn(ctx, vm, snap, at, p.FrozenNext()); err != nil {
		return vm, err
	}
	if err := cr.makeHostKey(ctx, vm); err != nil {
		return vm, err
	}
	if err := errors.Join(os.Rename(p.FrozenNext(), p.Frozen()), durable.SyncDir(p.Dir)); err != nil {
		return vm, err
	}
	return cr.records.update(ctx, vm.ID, func(vm *api.VM) ([]api.Event, error) {
		vm.State, vm.StopReason = api.StateSuspended, "made from a snapshot"
		return []api.Event{{Kind: "vm.suspended"}}, nil
	})
}
