package vm

import (
	"context"
	"errors"
	"os"
	"time"

	"banger/api"
	"banger/internal/host"
	"banger/internal/network"
)

// Reconcile makes records and reality agree after the daemon was away: it adopts every VM whose VMM still
// runs, demotes the others to stopped with what they held torn down, completes deletes that were
// cut off, and removes directories that no record knows. One VM's trouble does not keep the others from it.
func (s *Service) Reconcile(ctx context.Context) error {
	vms, err := s.Store.VMs(ctx)
	if err != nil {
		return err
	}
	if err := s.keepReserve(); err != nil {
		s.Log.Warn("cannot keep a reserve for deletes on a full disk", "error", err)
	}
	// The bridge and its rules first: guests run on meanwhile, and must not be let loose.
	errs := []error{s.setNetwork(ctx), s.Layers.Sweep(ctx)}
	for _, vm := range vms {
		if err := s.reconcile(ctx, vm); err != nil {
			s.Log.Error("cannot reconcile", "vm", vm.ID, "name", vm.Name, "error", err)
			errs = append(errs, s.Records.noteFailure(ctx, vm.ID, err))
		}
	}
	errs = append(errs, s.sweep(ctx, vms), s.sweepSnapshots(ctx), s.Layers.Sweep(ctx), s.setNetwork(ctx))
	s.life.do(s.Logs.keepConsoles)
	s.life.do(s.keepPool)
	return errors.Join(errs...)
}

func (s *Service) reconcile(ctx context.Context, vm api.VM) error {
	p := s.Paths.VM(vm.ID)
	if vm.Runtime.Forking && vm.State != api.StateSuspended && !exists(p.Frozen()) { // it has never been anybody
		return s.remove(ctx, vm.ID)
	}
	switch vm.State {
	case api.StateStopped:
		if !exists(p.FrozenNext()) && !vm.Runtime.Forking {
			return nil
		}
		// A restore was cut off before its record, or the making of a VM from a snapshot before its.
		return s.locks.with(ctx, vm.ID, func() error { return errors.Join(s.completeRestore(ctx, vm), s.gone(ctx, vm)) })
	case api.StateDeleting:
		return s.remove(ctx, vm.ID)
	case api.StatePooled:
		return s.reconcilePooled(ctx, vm)
	case api.StateSuspended: // recorded, so the state is complete: only the VMM's end may be missing
		return s.locks.with(ctx, vm.ID, func() error {
			return errors.Join(s.kill(ctx, vm.ID, or(vm.StopReason, whySuspended)), s.completeRestore(ctx, vm), s.points.settle(ctx, vm, nil))
		})
	}
	unlock, err := s.locks.Lock(ctx, vm.ID)
	if err != nil {
		return err
	}
	adopted := s.vmms.adopt(ctx, vm)
	if adopted != nil {
		err = s.goOn(ctx, vm, adopted)
	} else {
		err = s.gone(ctx, vm)
	}
	unlock()
	switch {
	case adopted != nil:
		if vm.State != api.StatePaused {
			s.bringUpAgain(adopted)
		}
	case err == nil && vm.Spec.AutoRemove && !exists(s.Paths.VM(vm.ID).Frozen()): // a suspended one goes on one day
		return s.remove(ctx, vm.ID)
	}
	return err
}

// goOn makes sure that an adopted guest runs: a daemon that died while it froze the guest left it standing.
// What it had written of its state is worth nothing from then on.
func (s *Service) goOn(ctx context.Context, vm api.VM, l *liveVM) error {
	p := s.Paths.VM(vm.ID)
	err := errors.Join(os.RemoveAll(p.FrozenNew()), os.RemoveAll(p.Frozen()), os.RemoveAll(p.FrozenUsed()), os.RemoveAll(p.FrozenNext()))
	if vm.State != api.StatePaused {
		err = errors.Join(err, l.instance.Resume(ctx))
	}
	return errors.Join(err, s.points.settle(ctx, vm, l))
}

// gone records what has become of a VM whose VMM is no more: suspended when its state was complete on disk, for
// then the guest has done nothing since; else stopped.
func (s *Service) gone(ctx context.Context, vm api.VM) error {
	p := s.Paths.VM(vm.ID)
	if exists(p.Frozen()) {
		if _, err := s.Records.update(ctx, vm.ID, func(vm *api.VM) ([]api.Event, error) {
			vm.State = api.StateSuspended
			return []api.Event{{Kind: "vm.suspended"}}, nil
		}); err != nil {
			return err
		}
	}
	now, err := s.stopped(ctx, vm.ID, s.whyGone(vm), nil)
	if err == nil {
		err = s.points.dropUnused(ctx, now)
	}
	return errors.Join(err, s.points.settle(ctx, vm, nil), os.RemoveAll(p.FrozenNew()), os.RemoveAll(p.FrozenUsed()), os.RemoveAll(p.FrozenNext()))
}

// whyGone says why a VM that was to run does not.
func (s *Service) whyGone(vm api.VM) string {
	if vm.State == api.StateStarting {
		return "start cut off"
	}
	if boot := bootTime(); vm.StartedAt != nil && !boot.IsZero() && vm.StartedAt.Before(boot) {
		return "host restarted"
	}
	return "ended while bangerd was away"
}

// bootTime is when this host was booted.
func bootTime() time.Time {
	info, err := os.Stat("/proc/1")
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// sweepOne ends what still runs in a directory that no record knows, and removes it.
func (s *Service) sweepOne(ctx context.Context, id string) error {
	var errs []error
	m := s.machines.remains(id, 0)
	if uid, err := host.VMMOf(m.Dir); err == nil {
		m.UID, m.GID = uid, uid
	}
	for _, b := range s.Backends.All() { // whose it was is not known
		if p, found := b.Hypervisor.Find(ctx, m); found {
			errs = append(errs, s.vmms.endProcess(ctx, p))
		}
		errs = append(errs, b.Hypervisor.Clean(ctx, m))
	}
	for _, kind := range []api.NetKind{api.NetBridge, api.NetUser} {
		if s.Network.Check(kind) == nil {
			errs = append(errs, s.Network.Detach(ctx, network.Guest{ID: id, Kind: kind, MAC: network.MACFor(id).String()}))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(s.Paths.VM(id).Dir))...)
}

// sweep removes directories that no record knows: creates and builds of templates that were cut off.
func (s *Service) sweep(ctx context.Context, vms []api.VM) error {
	known := map[string]bool{}
	for _, vm := range vms {
		known[vm.ID] = true
	}
	entries, err := os.ReadDir(s.Paths.VMs())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if !known[e.Name()] {
			errs = append(errs, s.sweepOne(ctx, e.Name()))
		}
	}
	return errors.Join(errs...)
}
