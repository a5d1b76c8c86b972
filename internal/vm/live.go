package vm

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"banger/api"
	"banger/internal/guest"
	"banger/internal/host"
	"banger/internal/hypervisor"
)

// liveVM is a VM whose VMM runs, as this daemon knows it.
type liveVM struct {
	id       string
	instance hypervisor.Instance
	agent    *guest.Client
	// gone is closed when the VMM is; exit then says why.
	gone chan struct{}
	exit hypervisor.Event
	// shutdown is true when the guest asked for its own power-off; read after gone.
	shutdown bool
	// main wakes the follower of the main command, see main.go.
	main mainFollower
	// anonymous: it is a template's clone that has no identity yet; answered: its agent has said that the guest is
	// ready when it got one. Whoever brings the guest up holds the VM's lock.
	anonymous, answered bool
	// ends is set before the VMM is ended for a reason that users should be told of.
	ends atomic.Pointer[api.Error]
	// clock starts the keeper of the guest's clock once.
	clock sync.Once
	// policy wakes watchIdle; holds one.
	policy chan struct{}
}

// isGone reports whether the VMM has ended.
func (l *liveVM) isGone() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

// why is the reason for an error of a call to the guest, where it is known better than by the call.
func (l *liveVM) why(err error) error {
	if e := l.ends.Load(); e != nil && err != nil {
		return e
	}
	return err
}

// vmAlive is the one answer to "is it running": its VMM, known to this daemon, has not ended.
func (s *Service) vmAlive(id string) (*liveVM, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.live[id]
	if !ok || l.isGone() {
		return nil, false
	}
	return l, s.Host.Alive(l.instance.Process())
}

// setLive makes a VMM known and watches it until it ends.
func (s *Service) setLive(id string, instance hypervisor.Instance) *liveVM {
	l := &liveVM{id: id, instance: instance, agent: guest.New(instance.DialGuest), gone: make(chan struct{}), policy: make(chan struct{}, 1)}
	s.mu.Lock()
	s.live[id] = l
	s.mu.Unlock()
	s.life.do(func(ctx context.Context) { s.watch(ctx, l) })
	s.life.do(func(ctx context.Context) { s.watchIdle(ctx, l) })
	return l
}

// dropLive forgets a VMM; false when it is not the one we know.
func (s *Service) dropLive(l *liveVM) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[l.id] != l {
		return false
	}
	delete(s.live, l.id)
	return true
}

// agentOf is the conversation with a running VM's guest, for banger's own calls; users go by reach.
func (s *Service) agentOf(ctx context.Context, ref string) (api.VM, *liveVM, error) {
	vm, err := s.Records.Get(ctx, ref)
	if err != nil {
		return vm, nil, err
	}
	return s.liveOf(vm)
}

func (s *Service) liveOf(vm api.VM) (api.VM, *liveVM, error) {
	if vm.State == api.StatePaused {
		return vm, nil, api.Errorf(api.CodeConflict, "VM %s is paused", vm.Name).WithHint("banger vm unpause %s", vm.Name)
	}
	l, ok := s.vmAlive(vm.ID)
	if !ok || vm.State == api.StateStopped {
		return vm, nil, api.Errorf(api.CodeConflict, "VM %s is %s", vm.Name, vm.State).WithHint("banger vm start %s", vm.Name)
	}
	if !vm.Ready {
		return vm, nil, api.Errorf(api.CodeNotReady, "the guest of VM %s is not ready", vm.Name).WithHint("banger vm logs --console %s", vm.Name)
	}
	return vm, l, nil
}

// watch follows what the VMM says until it is gone.
func (s *Service) watch(ctx context.Context, l *liveVM) {
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-l.instance.Events():
			if !ok {
				close(l.gone)
				s.Records.Wake()
				s.ended(context.WithoutCancel(ctx), l)
				return
			}
			s.happened(ctx, l, e)
		}
	}
}

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
	if !s.dropLive(l) {
		return api.VM{}, nil
	}
	reason := "guest poweroff"
	var failure *api.Failure
	if !l.shutdown {
		reason = "vmm exited"
		failure = &api.Failure{Code: api.CodeInternal, Message: "its VMM ended unexpectedly: " + l.exit.Detail, At: s.Now().UTC(), ConsoleTail: s.consoleTail(l.id)}
	}
	return s.stopped(ctx, l.id, reason, failure)
}

// processes are the processes that belong to a VM by its handles.
func (h VMHandles) processes() []host.Process {
	return slices.DeleteFunc([]host.Process{h.VMM, h.NetHelper}, func(p host.Process) bool { return p == host.Process{} })
}
