package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/layer"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/template"
)

// A snapshot is a frozen state kept in a directory of its own, as a suspended VM's is in the VM's, and the two layers that
// the disks were at that moment. Nothing of it ever changes, so whoever goes on from it gets hard links of the state and
// empty disks on the layers.

// Snapshots makes, keeps and removes VMs' snapshots, and puts VMs back to them.
type Snapshots struct {
	store      *store.Store
	records    *Records
	locks      *vmLocks
	operations *operation.Registry
	machines   *machines
	points     *points
	kill       func(ctx context.Context, id, reason string) error
	spare      *spareRoom
	layers     *layer.Service
	templates  *template.Service
	newID      func() string
	paths      config.Paths
	now        func() time.Time
	// start lets a VM go on that has been put back; forgetMain removes what its main command wrote.
	start      func(ctx context.Context, op *operation.Operation, id string, want api.VMStart) error
	forgetMain func(id string)
}

// List lists a VM's snapshots, oldest first; those of all VMs where ref is empty.
func (sn *Snapshots) List(ctx context.Context, ref string) (list []api.Snapshot, err error) {
	if ref == "" {
		list, err = sn.store.Snapshots(ctx)
	} else {
		var vm api.VM
		if vm, err = sn.records.Get(ctx, ref); err == nil {
			list, err = sn.store.SnapshotsOf(ctx, vm.ID)
		}
	}
	for n := range list {
		list[n].UsedBytes = sn.bytes(list[n])
	}
	return list, err
}

// Get finds a VM's snapshot by its name.
func (sn *Snapshots) Get(ctx context.Context, ref, name string) (api.Snapshot, error) {
	vm, err := sn.records.Get(ctx, ref)
	if err != nil {
		return api.Snapshot{}, err
	}
	snap, err := sn.store.Snapshot(ctx, vm, name)
	snap.UsedBytes = sn.bytes(snap)
	return snap, err
}

func (sn *Snapshots) bytes(snap api.Snapshot) int64 {
	var n int64
	for _, layer := range []string{snap.RootLayerID, snap.WorkLayerID} {
		if layer != "" {
			n += used(sn.layers.Path(layer))
		}
	}
	return n + used(sn.paths.Snapshot(snap.ID))
}

// Create snapshots a running, paused or suspended VM; the operation's result is the snapshot's name.
func (sn *Snapshots) Create(ctx context.Context, ref string, c api.SnapshotCreate) (*operation.Operation, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	vm, err := sn.records.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := snapshotable(vm, c.Name); err != nil {
		return nil, err
	}
	return sn.operations.Start("vm.snapshot", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		return op.Step(ctx, "snapshot", func(ctx context.Context) error {
			return sn.locks.with(ctx, vm.ID, func() error {
				snap, err := sn.take(ctx, op, vm.ID, c.Name)
				op.SetResult(snap.Name)
				return err
			})
		})
	}), nil
}

func snapshotable(vm api.VM, name string) error {
	switch {
	case vm.State == api.StateStopped:
		return api.Errorf(api.CodeConflict, "VM %s is stopped: a snapshot is of a VM's memory, too", vm.Name).WithHint("banger vm start %s", vm.Name)
	case vm.State != api.StateRunning && vm.State != api.StatePaused && vm.State != api.StateSuspended:
		return api.Errorf(api.CodeConflict, "VM %s is %s", vm.Name, vm.State).WithHint("banger vm wait --for ready %s", vm.Name)
	case vm.Spec.AutoRemove:
		return api.Errorf(api.CodeConflict, "VM %s is deleted when its command has ended (--rm), and its snapshots would go with it", vm.Name).
			WithHint("banger vm fork %s   # and snapshot the fork, which stays", vm.Name)
	case len(vm.Pending) > 0: // its memory does not go with its spec
		return api.Errorf(api.CodeConflict, "VM %s has not taken up its new CPUs or memory yet", vm.Name).WithHint("banger vm restart %s", vm.Name)
	case slices.Contains(vm.Snapshots, name):
		return store.SnapshotExists(vm.Name, name)
	}
	return nil
}

// take is called with the VM's lock held. In this order, so that a crash between any two steps leaves a whole snapshot or none:
// state and layers on disk; rename; record.
func (sn *Snapshots) take(ctx context.Context, op *operation.Operation, id, name string) (_ api.Snapshot, err error) {
	vm, err := sn.store.VM(ctx, id)
	if err != nil {
		return api.Snapshot{}, err
	}
	if err := snapshotable(vm, name); err != nil {
		return api.Snapshot{}, err
	}
	snap := api.Snapshot{ID: sn.newID(), Name: name, VMID: id, Spec: vm.Spec, Main: vm.Main, CreatedAt: sn.now().UTC()}
	snap.Spec.Labels, snap.Spec.AutoRemove, snap.Spec.Autostart, snap.Spec.IdleSuspendMS = map[string]string{}, false, false, 0
	dir, final := sn.paths.SnapshotNew(snap.ID), sn.paths.Snapshot(snap.ID)
	if err := errors.Join(os.MkdirAll(sn.paths.Snapshots(), 0o700), os.Mkdir(dir, 0o700)); err != nil {
		return snap, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir), os.RemoveAll(final))
		}
	}()
	take := sn.takeRunning
	if vm.State == api.StateSuspended {
		take = sn.takeSuspended
	}
	release, err := take(ctx, op, vm, dir, &snap)
	if err != nil {
		return snap, err
	}
	defer release()
	op.Reached("taken")
	if err := errors.Join(os.Rename(dir, final), durable.SyncDir(sn.paths.Snapshots())); err != nil {
		return snap, err
	}
	op.Reached("named")
	snap, err = sn.store.InsertSnapshot(ctx, snap)
	sn.records.Wake()
	return snap, err
}

// Delete removes a snapshot; what its VM, and others that went on from it, lie on stays.
func (sn *Snapshots) Delete(ctx context.Context, ref, name string) (api.Snapshot, error) {
	snap, err := sn.Get(ctx, ref, name)
	if err != nil {
		return snap, err
	}
	err = sn.spare.with(func() error {
		return sn.locks.with(ctx, snap.ID, func() error { return sn.forget(context.WithoutCancel(ctx), snap) })
	})
	if err != nil {
		return snap, err
	}
	sn.records.Wake()
	return snap, errors.Join(sn.layers.Sweep(ctx), sn.templates.Sweep(ctx, sn.records.TemplateInUse(ctx)))
}

// forget removes the record first: without one, the next daemon removes the files. Called with the snapshot's lock held.
func (sn *Snapshots) forget(ctx context.Context, snap api.Snapshot) error {
	if err := sn.store.DeleteSnapshot(ctx, snap); err != nil {
		return err
	}
	return os.RemoveAll(sn.paths.Snapshot(snap.ID))
}

// forgetOf removes all snapshots of a VM that is being deleted.
func (sn *Snapshots) forgetOf(ctx context.Context, vmID string) error {
	list, err := sn.store.SnapshotsOf(ctx, vmID)
	errs := []error{err}
	for _, snap := range list {
		errs = append(errs, sn.locks.with(ctx, snap.ID, func() error { return sn.forget(ctx, snap) }))
	}
	return errors.Join(errs...)
}

// sweep removes directories that no record knows: snapshots that were cut off while they were made or deleted.
func (sn *Snapshots) sweep(ctx context.Context) error {
	entries, err := os.ReadDir(sn.paths.Snapshots())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	list, err := sn.store.Snapshots(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, snap := range list {
		known[snap.ID] = true
	}
	var errs []error
	for _, e := range entries {
		if !known[e.Name()] {
			errs = append(errs, os.RemoveAll(filepath.Join(sn.paths.Snapshots(), e.Name())))
		}
	}
	return errors.Join(errs...)
}
