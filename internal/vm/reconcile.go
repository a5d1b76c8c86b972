package vm

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"banger/api"
	"banger/internal/backend"
	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/layer"
	"banger/internal/network"
	"banger/internal/store"
)

// reconciler takes up, once, what an earlier daemon has left of each part.
type reconciler struct {
	store     *store.Store
	records   *Records
	locks     *vmLocks
	backends  backend.Set
	machines  *machines
	vmms      *vmms
	points    *points
	bringUp   *bringUp
	stops     *stops
	remove    func(ctx context.Context, id string) error
	snapshots *Snapshots
	pool      *Pool
	logs      *Logs
	spare     *spareRoom
	network   *network.Network
	layers    *layer.Service
	life      *background
	paths     config.Paths
	log       *slog.Logger
}

// Reconcile makes records and reality agree after the daemon was away: it adopts every VM whose VMM still
// runs, demotes the others to stopped with what they held torn down, completes deletes that were
// cut off, and removes directories that no record knows. One VM's trouble does not keep the others from it.
func (c *reconciler) Reconcile(ctx context.Context) error {
	vms, err := c.store.VMs(ctx)
	if err != nil {
		return err
	}
	if err := c.spare.keep(); err != nil {
		c.log.Warn("cannot keep a reserve for deletes on a full disk", "error", err)
	}
	// The bridge and its rules first: guests run on meanwhile, and must not be let loose.
	errs := []error{c.setNetwork(ctx), c.layers.Sweep(ctx)}
	for _, vm := range vms {
		if err := c.one(ctx, vm); err != nil {
			c.log.Error("cannot reconcile", "vm", vm.ID, "name", vm.Name, "error", err)
			errs = append(errs, c.records.noteFailure(ctx, vm.ID, err))
		}
	}
	errs = append(errs, c.sweep(ctx, vms), c.snapshots.sweep(ctx), c.layers.Sweep(ctx), c.setNetwork(ctx))
	c.life.do(c.logs.keepConsoles)
	c.life.do(c.pool.keep)
	return errors.Join(errs...)
}

func (c *reconciler) one(ctx context.Context, vm api.VM) error {
	p := c.paths.VM(vm.ID)
	if vm.Runtime.Forking && vm.State != api.StateSuspended && !exists(p.Frozen()) { // it has never been anybody
		return c.remove(ctx, vm.ID)
	}
	switch vm.State {
	case api.StateStopped:
		if !exists(p.FrozenNext()) && !vm.Runtime.Forking {
			return nil
		}
		// A restore was cut off before its record, or the making of a VM from a snapshot before its.
		return c.locks.with(ctx, vm.ID, func() error { return errors.Join(c.snapshots.completeRestore(ctx, vm), c.gone(ctx, vm)) })
	case api.StateDeleting:
		return c.remove(ctx, vm.ID)
	case api.StatePooled:
		return c.pool.reconcile(ctx, vm)
	case api.StateSuspended: // recorded, so the state is complete: only the VMM's end may be missing
		return c.locks.with(ctx, vm.ID, func() error {
			return errors.Join(c.stops.kill(ctx, vm.ID, cmp.Or(vm.StopReason, whySuspended)), c.snapshots.completeRestore(ctx, vm), c.points.settle(ctx, vm, nil))
		})
	}
	unlock, err := c.locks.Lock(ctx, vm.ID)
	if err != nil {
		return err
	}
	adopted := c.vmms.adopt(ctx, vm)
	if adopted != nil {
		err = c.goOn(ctx, vm, adopted)
	} else {
		err = c.gone(ctx, vm)
	}
	unlock()
	switch {
	case adopted != nil:
		if vm.State != api.StatePaused {
			c.bringUp.again(adopted)
		}
	case err == nil && vm.Spec.AutoRemove && !exists(c.paths.VM(vm.ID).Frozen()): // a suspended one goes on one day
		return c.remove(ctx, vm.ID)
	}
	return err
}

// goOn makes sure that an adopted guest runs: a daemon that died while it froze the guest left it standing.
// What it had written of its state is worth nothing from then on.
func (c *reconciler) goOn(ctx context.Context, vm api.VM, l *liveVM) error {
	p := c.paths.VM(vm.ID)
	err := errors.Join(os.RemoveAll(p.FrozenNew()), os.RemoveAll(p.Frozen()), os.RemoveAll(p.FrozenUsed()), os.RemoveAll(p.FrozenNext()))
	if vm.State != api.StatePaused {
		err = errors.Join(err, l.instance.Resume(ctx))
	}
	return errors.Join(err, c.points.settle(ctx, vm, l))
}

// gone records what has become of a VM whose VMM is no more: suspended when its state was complete on disk, for
// then the guest has done nothing since; else stopped.
func (c *reconciler) gone(ctx context.Context, vm api.VM) error {
	p := c.paths.VM(vm.ID)
	if exists(p.Frozen()) {
		if _, err := c.records.update(ctx, vm.ID, func(vm *api.VM) ([]api.Event, error) {
			vm.State = api.StateSuspended
			return []api.Event{{Kind: "vm.suspended"}}, nil
		}); err != nil {
			return err
		}
	}
	now, err := c.stops.stopped(ctx, vm.ID, c.whyGone(vm), nil)
	if err == nil {
		err = c.points.dropUnused(ctx, now)
	}
	return errors.Join(err, c.points.settle(ctx, vm, nil), os.RemoveAll(p.FrozenNew()), os.RemoveAll(p.FrozenUsed()), os.RemoveAll(p.FrozenNext()))
}

// whyGone says why a VM that was to run does not.
func (c *reconciler) whyGone(vm api.VM) string {
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
func (c *reconciler) sweepOne(ctx context.Context, id string) error {
	var errs []error
	m := c.machines.remains(id, 0)
	if uid, err := host.VMMOf(m.Dir); err == nil {
		m.UID, m.GID = uid, uid
	}
	for _, b := range c.backends.All() { // whose it was is not known
		if p, found := b.Hypervisor.Find(ctx, m); found {
			errs = append(errs, c.vmms.endProcess(ctx, p))
		}
		errs = append(errs, b.Hypervisor.Clean(ctx, m))
	}
	for _, kind := range []api.NetKind{api.NetBridge, api.NetUser} {
		if c.network.Check(kind) == nil {
			errs = append(errs, c.network.Detach(ctx, network.Guest{ID: id, Kind: kind, MAC: network.MACFor(id).String()}))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(c.paths.VM(id).Dir))...)
}

// sweep removes directories that no record knows: creates and builds of templates that were cut off.
func (c *reconciler) sweep(ctx context.Context, vms []api.VM) error {
	known := map[string]bool{}
	for _, vm := range vms {
		known[vm.ID] = true
	}
	entries, err := os.ReadDir(c.paths.VMs())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if !known[e.Name()] {
			errs = append(errs, c.sweepOne(ctx, e.Name()))
		}
	}
	return errors.Join(errs...)
}

// setNetwork tells the network which guests are to be on the bridge.
func (c *reconciler) setNetwork(ctx context.Context) error {
	vms, err := c.store.VMs(ctx)
	if err != nil {
		return err
	}
	guests := []network.Guest{}
	for _, vm := range vms {
		if vm.Spec.Net == api.NetBridge && vm.State != api.StateStopped && vm.State != api.StateDeleting {
			g := guestOf(vm)
			g.Joined = vm.Ready
			guests = append(guests, g)
		}
	}
	return c.network.Set(ctx, guests)
}
