package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"banger/api"
	"banger/internal/durable"
	"banger/internal/operation"
	"banger/internal/store"
)

// A snapshot is a frozen state kept in a directory of its own, as a suspended VM's is in the VM's, and the two layers that
// the disks were at that moment. Nothing of it ever changes, so whoever goes on from it gets hard links of the state and
// empty disks on the layers.

// Snapshots lists a VM's snapshots, oldest first; those of all VMs where ref is empty.
func (s *Service) Snapshots(ctx context.Context, ref string) (list []api.Snapshot, err error) {
	if ref == "" {
		list, err = s.Store.Snapshots(ctx)
	} else {
		var vm api.VM
		if vm, err = s.Records.Get(ctx, ref); err == nil {
			list, err = s.Store.SnapshotsOf(ctx, vm.ID)
		}
	}
	for n := range list {
		list[n].UsedBytes = s.snapshotBytes(list[n])
	}
	return list, err
}

// Snapshot finds a VM's snapshot by its name.
func (s *Service) Snapshot(ctx context.Context, ref, name string) (api.Snapshot, error) {
	vm, err := s.Records.Get(ctx, ref)
	if err != nil {
		return api.Snapshot{}, err
	}
	snap, err := s.Store.Snapshot(ctx, vm, name)
	snap.UsedBytes = s.snapshotBytes(snap)
	return snap, err
}

func (s *Service) snapshotBytes(snap api.Snapshot) int64 {
	var n int64
	for _, layer := range []string{snap.RootLayerID, snap.WorkLayerID} {
		if layer != "" {
			n += used(s.Layers.Path(layer))
		}
	}
	return n + used(s.Paths.Snapshot(snap.ID))
}

// CreateSnapshot snapshots a running, paused or suspended VM; the operation's result is the snapshot's name.
func (s *Service) CreateSnapshot(ctx context.Context, ref string, c api.SnapshotCreate) (*operation.Operation, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	vm, err := s.Records.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := snapshotable(vm, c.Name); err != nil {
		return nil, err
	}
	return s.Operations.Start("vm.snapshot", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		return op.Step(ctx, "snapshot", func(ctx context.Context) error {
			return s.locks.with(ctx, vm.ID, func() error {
				snap, err := s.snapshot(ctx, op, vm.ID, c.Name)
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

// snapshot is called with the VM's lock held. In this order, so that a crash between any two steps leaves a whole snapshot or none:
// state and layers on disk; rename; record.
func (s *Service) snapshot(ctx context.Context, op *operation.Operation, id, name string) (_ api.Snapshot, err error) {
	vm, err := s.Store.VM(ctx, id)
	if err != nil {
		return api.Snapshot{}, err
	}
	if err := snapshotable(vm, name); err != nil {
		return api.Snapshot{}, err
	}
	snap := api.Snapshot{ID: s.names.newID(), Name: name, VMID: id, Spec: vm.Spec, Main: vm.Main, CreatedAt: s.Now().UTC()}
	snap.Spec.Labels, snap.Spec.AutoRemove, snap.Spec.Autostart, snap.Spec.IdleSuspendMS = map[string]string{}, false, false, 0
	dir, final := s.Paths.SnapshotNew(snap.ID), s.Paths.Snapshot(snap.ID)
	if err := errors.Join(os.MkdirAll(s.Paths.Snapshots(), 0o700), os.Mkdir(dir, 0o700)); err != nil {
		return snap, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir), os.RemoveAll(final))
		}
	}()
	take := s.snapshotRunning
	if vm.State == api.StateSuspended {
		take = s.snapshotSuspended
	}
	release, err := take(ctx, op, vm, dir, &snap)
	if err != nil {
		return snap, err
	}
	defer release()
	op.Reached("taken")
	if err := errors.Join(os.Rename(dir, final), durable.SyncDir(s.Paths.Snapshots())); err != nil {
		return snap, err
	}
	op.Reached("named")
	snap, err = s.Store.InsertSnapshot(ctx, snap)
	s.Records.Wake()
	return snap, err
}

// DeleteSnapshot removes a snapshot; what its VM, and others that went on from it, lie on stays.
func (s *Service) DeleteSnapshot(ctx context.Context, ref, name string) (api.Snapshot, error) {
	snap, err := s.Snapshot(ctx, ref, name)
	if err != nil {
		return snap, err
	}
	err = s.withReserve(func() error {
		return s.locks.with(ctx, snap.ID, func() error { return s.forgetSnapshot(context.WithoutCancel(ctx), snap) })
	})
	if err != nil {
		return snap, err
	}
	s.Records.Wake()
	return snap, errors.Join(s.Layers.Sweep(ctx), s.Templates.Sweep(ctx, s.Records.TemplateInUse(ctx)))
}

// forgetSnapshot removes the record first: without one, the next daemon removes the files. Called with the snapshot's lock held.
func (s *Service) forgetSnapshot(ctx context.Context, snap api.Snapshot) error {
	if err := s.Store.DeleteSnapshot(ctx, snap); err != nil {
		return err
	}
	return os.RemoveAll(s.Paths.Snapshot(snap.ID))
}

// forgetSnapshots removes all snapshots of a VM that is being deleted.
func (s *Service) forgetSnapshots(ctx context.Context, vmID string) error {
	list, err := s.Store.SnapshotsOf(ctx, vmID)
	errs := []error{err}
	for _, snap := range list {
		errs = append(errs, s.locks.with(ctx, snap.ID, func() error { return s.forgetSnapshot(ctx, snap) }))
	}
	return errors.Join(errs...)
}

// sweepSnapshots removes directories that no record knows: snapshots that were cut off while they were made or deleted.
func (s *Service) sweepSnapshots(ctx context.Context) error {
	entries, err := os.ReadDir(s.Paths.Snapshots())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	list, err := s.Store.Snapshots(ctx)
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
			errs = append(errs, os.RemoveAll(filepath.Join(s.Paths.Snapshots(), e.Name())))
		}
	}
	return errors.Join(errs...)
}
