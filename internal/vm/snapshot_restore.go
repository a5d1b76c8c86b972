package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"banger/api"
	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/operation"
)

// Restore puts a VM back to a snapshot and lets it go on from there. A running or paused one, whose present state would be
// lost, is refused unless force is set. Identity and address stay.
func (sn *Snapshots) Restore(ctx context.Context, ref, name string, force bool) (*operation.Operation, error) {
	vm, err := sn.records.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if _, err := sn.store.Snapshot(ctx, vm, name); err != nil {
		return nil, err
	}
	if err := restorable(vm, name, force); err != nil {
		return nil, err
	}
	if force {
		sn.operations.CancelStarts(vm.ID)
	}
	return sn.operations.Start("vm.restore", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		op.SetResult(vm.ID)
		if err := sn.locks.with(ctx, vm.ID, func() error { return sn.restore(ctx, op, vm.ID, name, force) }); err != nil {
			return err
		}
		return sn.start(ctx, op, vm.ID, api.VMStart{})
	}), nil
}

func restorable(vm api.VM, name string, force bool) error {
	switch vm.State {
	case api.StateStopped, api.StateSuspended:
		return nil
	case api.StateDeleting:
		return api.Errorf(api.CodeConflict, "VM %s is being deleted", vm.Name)
	}
	if !force {
		return api.Errorf(api.CodeConflict, "VM %s is %s, and all it has done since snapshot %s would be lost", vm.Name, vm.State, name).
			WithHint("banger vm snapshot restore --force %s %s", vm.Name, name)
	}
	return nil
}

// restore makes the VM a suspended one whose frozen state is the snapshot's; the start after it lets it go on. The record is the
// point of no return: before it, the VM is what it was (or, where it ran, what a power cut would have left);
// after it, whoever comes next completes the rest. Called with the VM's lock held.
func (sn *Snapshots) restore(ctx context.Context, op *operation.Operation, id, name string, force bool) error {
	vm, err := sn.store.VM(ctx, id)
	if err != nil {
		return err
	}
	if err := restorable(vm, name, force); err != nil {
		return err
	}
	snap, unlock, err := sn.hold(ctx, vm, name)
	if err != nil {
		return err
	}
	defer unlock()
	then := vm
	then.Spec = shapeOf(snap.Spec, vm.Spec)
	sn.lieOn(&then, snap)
	at, err := sn.canThaw(ctx, then, snap)
	if err != nil {
		return err
	}
	p := sn.paths.VM(id)
	if err := op.Step(ctx, "prepare", func(ctx context.Context) error {
		return sn.layOn(ctx, then, snap, at, p.FrozenNext())
	}); err != nil {
		return errors.Join(err, sn.takeBack(ctx, then, p.FrozenNext()))
	}
	return op.Step(context.WithoutCancel(ctx), "restore", func(ctx context.Context) error {
		op.Reached("prepared")
		if err := sn.kill(ctx, id, "restored"); err != nil {
			return errors.Join(err, sn.takeBack(ctx, then, p.FrozenNext()))
		}
		op.Reached("killed")
		sayShape(op, vm.Spec, then.Spec)
		now, err := sn.records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
			vm.State, vm.Spec, vm.Pending, vm.Main, vm.LastError = api.StateSuspended, shapeOf(snap.Spec, vm.Spec), []string{}, snap.Main, nil
			vm.StopReason = "restored"
			vm.Runtime.SystemOverlay, vm.Runtime.WorkDiskPath = then.Runtime.SystemOverlay, then.Runtime.WorkDiskPath
			vm.Runtime.RootLayerID, vm.Runtime.WorkLayerID = then.Runtime.RootLayerID, then.Runtime.WorkLayerID
			vm.Runtime.RootTemplateID, vm.Runtime.WorkTemplateID = then.Runtime.RootTemplateID, then.Runtime.WorkTemplateID
			vm.Runtime.Restoring, vm.Runtime.Thawed = true, at.TemplateID != ""
			return []api.Event{{Kind: "vm.restored", Data: map[string]string{"snapshot": snap.Name}}}, nil
		})
		if err != nil {
			return errors.Join(err, sn.takeBack(ctx, then, p.FrozenNext()))
		}
		op.Reached("recorded")
		sn.keepMainLog(vm, snap)
		return sn.completeRestore(ctx, now)
	})
}

// completeRestore puts the snapshot's state in the place of the VM's own; a restore without a
// record leaves nothing. Called with the VM's lock held, repeating it is harmless.
func (sn *Snapshots) completeRestore(ctx context.Context, vm api.VM) error {
	p := sn.paths.VM(vm.ID)
	if !vm.Runtime.Restoring {
		return os.RemoveAll(p.FrozenNext())
	}
	if exists(p.FrozenNext()) {
		if err := errors.Join(os.RemoveAll(p.Frozen()), os.Rename(p.FrozenNext(), p.Frozen()), durable.SyncDir(p.Dir)); err != nil {
			return err
		}
	}
	if _, err := sn.records.update(ctx, vm.ID, func(vm *api.VM) ([]api.Event, error) {
		vm.Runtime.Restoring = false
		return nil, nil
	}); err != nil {
		return err
	}
	return errors.Join(sn.points.settle(ctx, vm, nil), sn.layers.Sweep(ctx), sn.templates.Sweep(ctx, sn.records.TemplateInUse(ctx)))
}

// hold finds a snapshot and keeps it from being deleted until unlock.
func (sn *Snapshots) hold(ctx context.Context, vm api.VM, name string) (_ api.Snapshot, unlock func(), err error) {
	snap, err := sn.store.Snapshot(ctx, vm, name)
	if err != nil {
		return snap, nil, err
	}
	if unlock, err = sn.locks.Lock(ctx, snap.ID); err != nil {
		return snap, nil, err
	}
	again, err := sn.store.Snapshot(ctx, vm, name) // it may have been deleted, or replaced, while we waited
	if err == nil && again.ID != snap.ID {
		err = api.Errorf(api.CodeBusy, "snapshot %s of VM %s was replaced just now", name, vm.Name)
	}
	if err != nil {
		unlock()
		return snap, nil, err
	}
	return snap, unlock, nil
}

// canThaw refuses, with nothing changed, what this host, VMM or machine cannot go on from. then has the snapshot's shape.
func (sn *Snapshots) canThaw(ctx context.Context, then api.VM, snap api.Snapshot) (point, error) {
	dir := sn.paths.Snapshot(snap.ID)
	at, err := readFrozen(dir)
	if err == nil {
		err = at.whole(dir)
	}
	if err != nil {
		return at, api.Errorf(api.CodeConflict, "snapshot %s of VM %s is damaged: %w", snap.Name, snap.VM, err).
			WithHint("banger vm snapshot delete %s %s", snap.VM, snap.Name)
	}
	m, err := sn.machines.of(ctx, then)
	if err != nil {
		return at, err
	}
	stamp, err := sn.machines.backend(then).Hypervisor.Stamp(ctx, m)
	if err != nil {
		return at, err
	}
	if differ := differences(at.Stamp, stamp); differ != "" {
		return at, api.Errorf(api.CodeConflict, "snapshot %s of VM %s cannot go on here: it was made with %s; bring back what differs", snap.Name, snap.VM, differ).
			WithHint("banger doctor")
	}
	return at, nil
}

// whole looks at the files of a state before something that cannot be had again is given up for it.
func (p point) whole(dir string) error {
	now, err := sums(dir)
	if err == nil && !maps.Equal(now, p.Sums) {
		err = errors.New("its memory is not what was written")
	}
	return err
}

// layOn makes empty disks for vm, whose record lies on the snapshot, and hard links of the snapshot's state in dir.
func (sn *Snapshots) layOn(ctx context.Context, vm api.VM, snap api.Snapshot, p point, dir string) error {
	if err := sn.machines.makeDirs(vm); err != nil {
		return err
	}
	return errors.Join(sn.points.makeTops(ctx, vm, p), linkFrozen(sn.paths.Snapshot(snap.ID), dir))
}

// linkFrozen gives the files of a frozen state second names in a new directory.
func linkFrozen(from, to string) error {
	if err := errors.Join(os.RemoveAll(to), os.Mkdir(to, 0o700)); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Link(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return fmt.Errorf("cannot copy a frozen state: %w", err)
		}
	}
	return errors.Join(durable.SyncDir(to), durable.SyncDir(filepath.Dir(to)))
}

// takeBack removes what layOn made.
func (sn *Snapshots) takeBack(ctx context.Context, vm api.VM, dir string) error {
	disks := sn.machines.backend(vm).Overlays
	return errors.Join(disks.Delete(ctx, vm.Runtime.SystemOverlay), disks.Delete(ctx, vm.Runtime.WorkDiskPath), os.RemoveAll(dir))
}

// shapeOf is a VM's spec with the sizes of another moment. What the user has called it since stays.
func shapeOf(then, now api.VMSpec) api.VMSpec {
	now.CPUs, now.MemoryBytes, now.DiskBytes, now.RootBytes = then.CPUs, then.MemoryBytes, then.DiskBytes, then.RootBytes
	return now
}

// sayShape tells which sizes a restore takes back.
func sayShape(op *operation.Operation, was, is api.VMSpec) {
	if was.CPUs != is.CPUs {
		op.Warn("CPUs go back from %d to %d, as they were at the snapshot", was.CPUs, is.CPUs)
	}
	for _, b := range []struct {
		what    string
		was, is int64
	}{{"memory", was.MemoryBytes, is.MemoryBytes}, {"the work disk", was.DiskBytes, is.DiskBytes}, {"the root disk", was.RootBytes, is.RootBytes}} {
		if b.was != b.is {
			op.Warn("%s goes back from %s to %s, as it was at the snapshot", b.what, config.FormatSize(b.was), config.FormatSize(b.is))
		}
	}
}

// lieOn makes a VM's record one whose disks, yet to be made, lie on a snapshot. Their names are new ones: the VM may
// have disks on the same layers already.
func (sn *Snapshots) lieOn(vm *api.VM, snap api.Snapshot) {
	r, p, mark := &vm.Runtime, sn.paths.VM(vm.ID), sn.newID()
	r.SystemOverlay, r.WorkDiskPath = p.RootTop(mark), p.WorkTop(mark)
	r.RootLayerID, r.WorkLayerID = snap.RootLayerID, snap.WorkLayerID
	r.RootTemplateID, r.WorkTemplateID = snap.RootTemplateID, snap.WorkTemplateID
}

// keepMainLog removes the main command's output from the host unless it is that of the snapshot's, whole: the guest has
// what its command had written by then, and it is read again.
func (sn *Snapshots) keepMainLog(vm api.VM, snap api.Snapshot) {
	same := vm.Main != nil && snap.Main != nil && vm.Main.StartedAt.Equal(snap.Main.StartedAt)
	if !same || snap.Main.EndedAt == nil {
		sn.forgetMain(vm.ID)
	}
}
