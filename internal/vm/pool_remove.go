package vm

import (
	"context"
	"errors"
	"slices"
	"sync"

	"banger/api"
)

// giveUp removes the youngest clone of the pool; false when there was none.
func (s *Service) giveUp(ctx context.Context) (bool, error) {
	vm, ok := s.pool.youngest()
	if !ok {
		return s.cancelMaking(), nil
	}
	s.Log.Info("a clone of the pool is given up", "vm", vm.ID)
	return true, s.removePooled(ctx, vm.ID)
}

// makeWay has a start begin that the pool cannot serve: what is being made for the pool would only slow it down.
func (s *Service) makeWay() {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if m := s.pool.making; m != nil && !m.wanted {
		m.op.Cancel()
	}
}

// cancelMaking ends the making of a clone that no start waits for; false when there was none.
func (s *Service) cancelMaking() bool {
	s.pool.mu.Lock()
	m := s.pool.making
	wanted := m != nil && m.wanted
	s.pool.mu.Unlock()
	if m == nil || wanted {
		return false
	}
	m.op.Cancel()
	<-m.done
	return true
}

// dropPooled removes the clones that pass, one that is being made too.
func (s *Service) dropPooled(ctx context.Context, pass func(api.VM) bool) error {
	p := &s.pool
	p.mu.Lock()
	var gone []api.VM
	p.ready = slices.DeleteFunc(p.ready, func(vm api.VM) bool {
		if pass(vm) {
			gone = append(gone, vm)
			return true
		}
		return false
	})
	m := p.making
	p.mu.Unlock()
	errs := make([]error, len(gone))
	var all sync.WaitGroup
	for i, vm := range gone {
		all.Go(func() { errs[i] = s.removePooled(ctx, vm.ID) })
	}
	if m != nil && pass(m.vm) {
		m.op.Cancel()
		<-m.done
	}
	all.Wait()
	return errors.Join(errs...)
}

// removePooled removes a clone that is nobody's; one that is somebody's by now stays.
func (s *Service) removePooled(ctx context.Context, id string) error {
	_, err := s.Records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		if vm.State != api.StatePooled {
			return nil, api.Errorf(api.CodeConflict, "VM %s has been taken from the pool", vm.Name)
		}
		vm.Ready = false // nobody can take it from here on, and the next daemon removes it if we are cut off
		return nil, nil
	})
	switch api.CodeOf(err) {
	case api.CodeConflict, api.CodeNotFound:
		return nil
	}
	if err != nil {
		return err
	}
	return s.remove(ctx, id)
}

// drainPool removes the clones that pass, and waits for another start before it makes new ones.
func (s *Service) drainPool(ctx context.Context, pass func(api.VM) bool) error {
	s.pool.mu.Lock()
	s.pool.armed, s.pool.last = false, api.VM{}
	s.pool.mu.Unlock()
	return s.dropPooled(ctx, pass)
}

// isPooled reports whether a VM is nobody's.
func (s *Service) isPooled(ctx context.Context, id string) bool {
	vm, err := s.Store.VM(ctx, id)
	return err == nil && vm.State == api.StatePooled
}

// throwAway removes a clone of the pool that is good for nothing any more.
func (s *Service) throwAway(id string) {
	s.pool.claim(func(vm api.VM) bool { return vm.ID == id })
	s.life.do(func(ctx context.Context) {
		if err := s.removePooled(context.WithoutCancel(ctx), id); err != nil {
			s.Log.Error("cannot remove a clone of the pool", "vm", id, "error", err)
		}
		s.pool.look()
	})
}

// reconcilePooled takes up a clone that an earlier daemon has put into the pool, or removes what is left of it.
func (s *Service) reconcilePooled(ctx context.Context, vm api.VM) error {
	var l *liveVM
	if err := s.locks.with(ctx, vm.ID, func() error {
		if vm.Ready {
			l = s.vmms.adopt(ctx, vm)
		}
		return nil
	}); err != nil {
		return err
	}
	if l == nil {
		return s.removePooled(ctx, vm.ID)
	}
	s.keepClock(l)
	s.pool.add(vm)
	return nil
}

// isUp reports whether a VM's VMM runs.
func (s *Service) isUp(id string) bool {
	_, alive := s.vmms.alive(id)
	return alive
}

// EndPool empties the pool for good: a daemon that stops leaves nothing behind that nobody has asked for.
func (s *Service) EndPool(ctx context.Context) error {
	s.pool.mu.Lock()
	s.pool.ended = true
	s.pool.mu.Unlock()
	return s.dropPooled(ctx, func(api.VM) bool { return true })
}
