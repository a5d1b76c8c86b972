package vm

import (
	"context"
	"log/slog"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/hypervisor"
)

// reactions is what is done about a VMM that tells of something, or has ended.
type reactions struct {
	records *Records
	locks   *vmLocks
	vmms    *vmms
	bringUp *bringUp
	stops   *stops
	remove  func(ctx context.Context, id string) error
	pool    *Pool
	spare   *spareRoom
	paths   config.Paths
	log     *slog.Logger
	now     func() time.Time
}

func (x *reactions) happened(ctx context.Context, l *liveVM, e hypervisor.Event) {
	log := x.log.With("vm", l.id, "event", e.Kind, "detail", e.Detail)
	switch e.Kind {
	case hypervisor.EventReset:
		if x.pool.isPooled(ctx, l.id) { // it is no longer what it is to be
			x.pool.throwAway(l.id)
			return
		}
		log.Info("guest reboots")
		if _, err := x.records.update(ctx, l.id, func(vm *api.VM) ([]api.Event, error) {
			vm.Ready, vm.ReadyAt = false, nil
			return []api.Event{{Kind: "vm.rebooted"}}, nil
		}); err != nil {
			log.Error("cannot record the reboot", "error", err)
		}
		x.bringUp.again(l)
	case hypervisor.EventShutdown:
		l.shutdown = true
	case hypervisor.EventExited:
		l.exit = e
	case hypervisor.EventPaused:
		log.Warn("guest stopped by its VMM")
		if err := x.spare.with(func() error { // the reason is often that there is no room to record it
			_, err := x.records.update(ctx, l.id, func(vm *api.VM) ([]api.Event, error) {
				vm.LastError = &api.Failure{Code: api.CodeExhausted, Message: "the guest stands still: " + e.Detail, At: e.At.UTC()}
				return []api.Event{{Kind: "vm.paused", Data: map[string]string{"reason": e.Detail}}}, nil
			})
			return err
		}); err != nil {
			log.Error("cannot record the pause", "error", err)
		}
	}
}

// ended tears down a VM whose VMM has ended by itself: its guest powered off, or it crashed.
// A stop that waits for exactly this holds the VM's lock and does it itself.
func (x *reactions) ended(ctx context.Context, l *liveVM) {
	unlock, err := x.locks.Lock(ctx, l.id)
	if err != nil {
		return
	}
	vm, err := x.endedLocked(ctx, l)
	unlock()
	if err != nil {
		x.log.Error("cannot tear down an ended VM", "vm", l.id, "error", err)
		return
	}
	switch {
	case vm.State == api.StatePooled:
		x.pool.throwAway(l.id)
	case vm.Spec.AutoRemove:
		if err := x.remove(ctx, l.id); err != nil {
			x.log.Error("cannot remove an ended VM", "vm", l.id, "error", err)
		}
	}
}

// endedLocked returns no VM where somebody else has torn it down.
func (x *reactions) endedLocked(ctx context.Context, l *liveVM) (api.VM, error) {
	if !x.vmms.drop(l) {
		return api.VM{}, nil
	}
	reason := "guest poweroff"
	var failure *api.Failure
	if !l.shutdown {
		reason = "vmm exited"
		failure = &api.Failure{Code: api.CodeInternal, Message: "its VMM ended unexpectedly: " + l.exit.Detail, At: x.now().UTC(), ConsoleTail: consoleTail(x.paths.VM(l.id))}
	}
	return x.stops.stopped(ctx, l.id, reason, failure)
}
