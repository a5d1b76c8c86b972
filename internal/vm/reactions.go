package vm

import (
	"context"

	"banger/api"
	"banger/internal/hypervisor"
)

func (s *Service) happened(ctx context.Context, l *liveVM, e hypervisor.Event) {
	log := s.Log.With("vm", l.id, "event", e.Kind, "detail", e.Detail)
	switch e.Kind {
	case hypervisor.EventReset:
		if s.isPooled(ctx, l.id) { // it is no longer what it is to be
			s.throwAway(l.id)
			return
		}
		log.Info("guest reboots")
		if _, err := s.Records.update(ctx, l.id, func(vm *api.VM) ([]api.Event, error) {
			vm.Ready, vm.ReadyAt = false, nil
			return []api.Event{{Kind: "vm.rebooted"}}, nil
		}); err != nil {
			log.Error("cannot record the reboot", "error", err)
		}
		s.bringUpAgain(l)
	case hypervisor.EventShutdown:
		l.shutdown = true
	case hypervisor.EventExited:
		l.exit = e
	case hypervisor.EventPaused:
		log.Warn("guest stopped by its VMM")
		if err := s.withReserve(func() error { // the reason is often that there is no room to record it
			_, err := s.Records.update(ctx, l.id, func(vm *api.VM) ([]api.Event, error) {
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
func (s *Service) ended(ctx context.Context, l *liveVM) {
	unlock, err := s.locks.Lock(ctx, l.id)
	if err != nil {
		return
	}
	vm, err := s.endedLocked(ctx, l)
	unlock()
	if err != nil {
		s.Log.Error("cannot tear down an ended VM", "vm", l.id, "error", err)
		return
	}
	switch {
	case vm.State == api.StatePooled:
		s.throwAway(l.id)
	case vm.Spec.AutoRemove:
		if err := s.remove(ctx, l.id); err != nil {
			s.Log.Error("cannot remove an ended VM", "vm", l.id, "error", err)
		}
	}
}

// endedLocked returns no VM where somebody else has torn it down.
func (s *Service) endedLocked(ctx context.Context, l *liveVM) (api.VM, error) {
	if !s.vmms.drop(l) {
		return api.VM{}, nil
	}
	reason := "guest poweroff"
	var failure *api.Failure
	if !l.shutdown {
		reason = "vmm exited"
		failure = &api.Failure{Code: api.CodeInternal, Message: "its VMM ended unexpectedly: " + l.exit.Detail, At: s.Now().UTC(), ConsoleTail: consoleTail(s.Paths.VM(l.id))}
	}
	return s.stopped(ctx, l.id, reason, failure)
}
