package vm

import (
	"context"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/operation"
)

// takeTime bounds how long a clone of the pool may take to answer; one that does not is thrown away.
const takeTime = 2 * time.Second

// takePooled gives a VM that is to be created and started one of the pool's clones; false where there is none. All that
// it needs is a name, a few random numbers and the time.
func (s *Service) takePooled(ctx context.Context, want api.VM, request string) (api.VM, *operation.Operation, bool) {
	if s.PoolSize == 0 {
		return want, nil, false
	}
	defer s.busy()()
	for {
		pooled, ok := s.claim(ctx, want)
		if !ok {
			return want, nil, false
		}
		var vm api.VM
		op := s.Operations.Start("pool.take", pooled.ID, func(ctx context.Context, op *operation.Operation) (err error) {
			op.SetResult(pooled.ID)
			vm, err = s.take(ctx, op, pooled, want, request)
			return err
		})
		_, err := op.Wait(context.WithoutCancel(ctx)) // takeTime bounds it
		switch api.CodeOf(err) {
		case "":
			return vm, op, true
		case api.CodeExists: // what is wrong with the request is said where VMs are inserted
			s.pool.add(pooled)
			return want, nil, false
		}
		s.Log.Warn("a clone of the pool is thrown away", "vm", pooled.ID, "error", err)
		s.throwAway(pooled.ID)
	}
}

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
// transaction, then what follows from the record. The code is already_exists where the name or the client id are another's.
func (s *Service) take(ctx context.Context, op *operation.Operation, pooled, want api.VM, request string) (vm api.VM, err error) {
	unlock, err := s.locks.Lock(ctx, pooled.ID)
	if err != nil {
		return want, err
	}
	defer unlock()
	if want.Name, err = s.freeName(ctx, want); err != nil {
		return want, err
	}
	l, alive := s.vmms.alive(pooled.ID)
	if !alive {
		return want, api.Errorf(api.CodeInternal, "its VMM has ended")
	}
	gctx, cancel := context.WithTimeout(ctx, takeTime)
	defer cancel()
	var clock func(context.Context) error
	var health agentapi.Health
	var files [][]agentapi.File
	if err := op.Step(gctx, "personalise", func(ctx context.Context) error {
		return s.whileItRuns(ctx, l, func(ctx context.Context) error {
			p := s.christening(want.Name)
			p.Git, files = want.Git, s.addFiles(ctx, &p)
			health, clock, err = l.agent.BeginPersonalise(ctx, p)
			return err
		})
	}); err != nil {
		return want, err
	}
	ctx = context.WithoutCancel(ctx)
	set := make(chan error, 1)
	go func() { set <- clock(gctx) }()
	if err := op.Step(ctx, "record", func(ctx context.Context) error {
		vm, err = s.Store.TakeVM(ctx, pooled.ID, request, func(vm *api.VM) []api.Event { return s.becomes(vm, want) })
		return err
	}); err != nil {
		return want, err
	}
	s.Records.Wake()
	l.policyChanged()
	return vm, op.Step(ctx, "announce", func(ctx context.Context) error {
		for _, err := range []error{
			s.Network.Rename(ctx, guestOf(vm)),
			s.KnownHosts.Pin(hostNames(vm), vm.Runtime.SSHHostKey),
			s.Host.SetOOMScore(l.instance.Process(), oomScore),
			s.putFiles(ctx, l, health, files),
			<-set,
		} {
			if err != nil { // it runs, and is its user's; a restart tries again
				s.Log.Error("cannot complete what was taken from the pool", "vm", vm.ID, "error", err)
			}
		}
		return nil
	})
}

// becomes is the change of the record.
func (s *Service) becomes(vm *api.VM, want api.VM) []api.Event {
	now := s.Now().UTC()
	vm.Name, vm.ClientID, vm.State, vm.Runtime.DNSName = want.Name, want.ClientID, api.StateRunning, want.Name+".vm"
	vm.Git, vm.Spec, vm.CreatedAt, vm.StartedAt, vm.ReadyAt = want.Git, want.Spec, now, &now, &now
	return []api.Event{{Kind: "vm.started"}, {Kind: "vm.ready"}}
}

// freeName is the name that was asked for, or one that is made up. Whether they are still free is up to the transaction.
func (s *Service) freeName(ctx context.Context, want api.VM) (string, error) {
	for {
		name := want.Name
		if name == "" {
			name = s.names.madeUp(nil)
		}
		free, err := s.Store.IsFree(ctx, name, want.ClientID)
		if err != nil || free {
			return name, err
		}
		if want.Name != "" || want.ClientID != "" {
			return name, api.Errorf(api.CodeExists, "the name %q or the client id %q belong to another VM", name, want.ClientID)
		}
	}
}
