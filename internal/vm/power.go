package vm

import (
	"context"
	"errors"
	"time"

	"banger/api"
	"banger/internal/operation"
	"banger/internal/store"
)

// powers is a VM's switches: each call finds the VM, takes its lock and has the part that owns the work do it.
type powers struct {
	store      *store.Store
	records    *Records
	locks      *vmLocks
	operations *operation.Registry
	start      func(ctx context.Context, op *operation.Operation, id string, want api.VMStart) error
	stops      *stops
	suspends   *suspends
	remove     func(ctx context.Context, id string) error
	alive      func(id string) (*liveVM, bool)
	now        func() time.Time
}

// Start brings a stopped VM up, and lets a suspended one go on. One that runs already is left as it is.
func (w *powers) Start(ctx context.Context, ref string, want api.VMStart) (*operation.Operation, error) {
	vm, err := w.records.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	return w.operations.Start("vm.start", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		return w.start(ctx, op, vm.ID, want)
	}), nil
}

// Stop asks the guest to sync and power off, and forces it after timeout (0: the default). A suspended VM
// is thawed for that. A stopped VM is no error.
func (w *powers) Stop(ctx context.Context, ref string, timeout time.Duration) (*operation.Operation, error) {
	vm, err := w.records.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	w.operations.CancelStarts(vm.ID)
	return w.operations.Start("vm.stop", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		op.SetResult(vm.ID)
		if vm.State == api.StateSuspended {
			if err := w.start(ctx, op, vm.ID, api.VMStart{}); err != nil {
				return err
			}
		}
		if err := w.locks.with(ctx, vm.ID, func() error { return w.stops.stop(ctx, op, vm.ID, timeout) }); err != nil {
			return err
		}
		return w.autoRemove(ctx, op, vm)
	}), nil
}

// Kill is power-off at once, also of a suspended VM, whose frozen memory is lost. A stopped VM is no error.
func (w *powers) Kill(ctx context.Context, ref string) (*operation.Operation, error) {
	vm, err := w.records.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	w.operations.CancelStarts(vm.ID)
	return w.operations.Start("vm.kill", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		op.SetResult(vm.ID)
		if err := op.Step(ctx, "kill", func(ctx context.Context) error {
			return w.locks.with(ctx, vm.ID, func() error {
				return errors.Join(w.suspends.discardMemory(ctx, vm.ID), w.stops.kill(ctx, vm.ID, "killed"))
			})
		}); err != nil {
			return err
		}
		return w.autoRemove(ctx, op, vm)
	}), nil
}

// autoRemove removes a VM that was stopped and is to go with that.
func (w *powers) autoRemove(ctx context.Context, op *operation.Operation, vm api.VM) error {
	if !vm.Spec.AutoRemove {
		return nil
	}
	return op.Step(ctx, "remove", func(ctx context.Context) error { return w.remove(ctx, vm.ID) })
}

// Restart stops a VM if it runs, and starts it.
func (w *powers) Restart(ctx context.Context, ref string, timeout time.Duration) (*operation.Operation, error) {
	vm, err := w.records.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	return w.operations.Start("vm.restart", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		if err := w.locks.with(ctx, vm.ID, func() error { return w.stops.stop(ctx, op, vm.ID, timeout) }); err != nil {
			return err
		}
		return w.start(ctx, op, vm.ID, api.VMStart{})
	}), nil
}

// Suspend freezes a running VM to disk and gives its memory back. Its start goes on from there. In this
// order, so that a power cut between any two steps loses at most the memory: the guest syncs; freeze; all files
// on disk; rename; record; and only then the VMM ends.
func (w *powers) Suspend(ctx context.Context, ref string) (*operation.Operation, error) {
	vm, err := w.records.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if vm.State == api.StateStopped {
		return nil, api.Errorf(api.CodeConflict, "VM %s is stopped", vm.Name).WithHint("banger vm start %s", vm.Name)
	}
	return w.operations.Start("vm.suspend", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		op.SetResult(vm.ID)
		return w.locks.with(ctx, vm.ID, func() error { return w.suspends.suspend(ctx, op, vm.ID, whySuspended) })
	}), nil
}

// Pause stops a VM's CPUs; it keeps its memory and its place on the network.
func (w *powers) Pause(ctx context.Context, ref string) (api.VM, error) {
	return w.pausing(ctx, ref, api.StateRunning, api.StatePaused, "vm.paused", func(ctx context.Context, l *liveVM) error {
		return l.instance.Pause(ctx)
	})
}

// Unpause lets a paused VM go on, and sets its clock.
func (w *powers) Unpause(ctx context.Context, ref string) (api.VM, error) {
	return w.pausing(ctx, ref, api.StatePaused, api.StateRunning, "vm.unpaused", func(ctx context.Context, l *liveVM) error {
		if err := l.instance.Resume(ctx); err != nil {
			return err
		}
		return l.agent.StepClock(ctx, w.now())
	})
}

func (w *powers) pausing(ctx context.Context, ref string, from, to api.State, event string, fn func(context.Context, *liveVM) error) (api.VM, error) {
	vm, err := w.records.Get(ctx, ref)
	if err != nil {
		return vm, err
	}
	err = w.locks.with(ctx, vm.ID, func() error {
		if vm, err = w.store.VM(ctx, vm.ID); err != nil || vm.State == to {
			return err
		}
		l, alive := w.alive(vm.ID)
		if vm.State != from || !alive {
			return api.Errorf(api.CodeConflict, "VM %s is %s", vm.Name, vm.State).WithHint("banger vm start %s", vm.Name)
		}
		if err := fn(ctx, l); err != nil {
			return err
		}
		vm, err = w.records.update(ctx, vm.ID, func(vm *api.VM) ([]api.Event, error) {
			vm.State = to
			return []api.Event{{Kind: event}}, nil
		})
		return err
	})
	return vm, err
}
