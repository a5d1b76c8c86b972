package vm

import (
	"context"
	"errors"
	"time"

	"banger/api"
)

// takeTime bounds how long a clone of the pool may take to answer; one that does not is thrown away.
const takeTime = 2 * time.Second

// takePooled gives a VM that is to be created and started one of the pool's clones; false where there is none. All that
// it needs is a name, a few random numbers and the time.
func (s *Service) takePooled(ctx context.Context, want api.VM, request string) (api.VM, bool) {
	if s.PoolSize == 0 {
		return want, false
	}
	defer s.busy()()
	for {
		pooled, ok := s.claim(ctx, want)
		if !ok {
			return want, false
		}
		vm, err := s.take(ctx, pooled, want, request)
		switch {
		case err == nil:
			return vm, true
		case errors.Is(err, errNameTaken): // what is wrong with the request is said where VMs are inserted
			s.pool.add(pooled)
			return want, false
		}
		s.Log.Warn("a clone of the pool is thrown away", "vm", pooled.ID, "error", err)
		s.throwAway(pooled.ID)
	}
}

// errNameTaken: another VM has the name or the client id.
var errNameTaken = errors.New("the name or the client id belong to another VM")

// claim takes a clone out of the pool. Where one is just being made it is waited for, since it will be there before any that
// would be begun now.
func (s *Service) claim(ctx context.Context, want api.VM) (api.VM, bool) {
	p := &s.pool
	for {
		if vm, ok := p.claim(func(vm api.VM) bool { return serves(vm, want) }); ok {
			return vm, true
		}
		p.mu.Lock()
		m := p.making
		if m == nil || m.wanted || p.ended || !serves(m.vm, want) {
			p.mu.Unlock()
			return want, false
		}
		m.wanted = true
		p.mu.Unlock()
		select {
		case <-m.done:
		case <-ctx.Done():
			return want, false
		}
	}
}

// take makes a claimed clone a user's: the guest first, so that nobody ever sees it half-named, then the record in one
// transaction, then what follows from the record.
func (s *Service) take(ctx context.Context, pooled, want api.VM, request string) (api.VM, error) {
	unlock, err := s.locks.Lock(ctx, pooled.ID)
	if err != nil {
		return want, err
	}
	defer unlock()
	name, err := s.freeName(ctx, want)
	if err != nil {
		return want, err
	}
	l, alive := s.vmAlive(pooled.ID)
	if !alive {
		return want, api.Errorf(api.CodeInternal, "its VMM has ended")
	}
	actx, cancel := context.WithTimeout(ctx, takeTime)
	defer cancel()
	if err := s.whileItRuns(actx, l, func(ctx context.Context) error {
		_, err := l.agent.Personalise(ctx, s.christening(name))
		return err
	}); err != nil {
		return want, err
	}
	ctx = context.WithoutCancel(ctx)
	vm, err := s.Store.TakeVM(ctx, pooled.ID, request, func(vm *api.VM) []api.Event {
		now := s.Now().UTC()
		vm.Name, vm.ClientID, vm.State, vm.Runtime.DNSName = name, want.ClientID, api.StateRunning, name+".vm"
		vm.Spec, vm.CreatedAt, vm.StartedAt, vm.ReadyAt = want.Spec, now, &now, &now
		return []api.Event{{Kind: "vm.started"}, {Kind: "vm.ready"}}
	})
	if err != nil {
		return want, err
	}
	s.changes.Wake()
	l.policyChanged()
	for _, err := range []error{
		s.Network.Rename(ctx, guestOf(vm)),
		s.KnownHosts.Pin(hostNames(vm), vm.Runtime.SSHHostKey),
		s.Host.SetOOMScore(l.instance.Process(), oomScore),
	} {
		if err != nil { // it runs, and is its user's; a restart tries again
			s.Log.Error("cannot complete what was taken from the pool", "vm", vm.ID, "error", err)
		}
	}
	return vm, nil
}

// freeName is the name that was asked for, or one that is made up. Whether they are still free is up to the transaction.
func (s *Service) freeName(ctx context.Context, want api.VM) (string, error) {
	for {
		name := want.Name
		if name == "" {
			name = s.madeUpName(nil)
		}
		free, err := s.Store.IsFree(ctx, name, want.ClientID)
		if err != nil || free {
			return name, err
		}
		if want.Name != "" || want.ClientID != "" {
			return name, errNameTaken
		}
	}
}
