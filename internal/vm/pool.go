package vm

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"banger/api"
	"banger/internal/operation"
	"banger/internal/template"
)

// pool is the clones that wait to be taken. What is recorded of them is in the store (state pooled; Ready when one may be
// taken); this is what the present daemon does with them.
type pool struct {
	// wake has the keeper look again.
	wake chan struct{}

	// mu protects the following. Nothing waits while holding it.
	mu sync.Mutex
	// ready are those that may be taken, oldest first. Who takes one out of here, to give it away or to remove it, is
	// the only one who does.
	ready []api.VM
	// making is the one being made; nil if none.
	making *making
	// armed is true once somebody has started a VM of the pool's kind, last what was started last.
	armed bool
	last  api.VM
	// ended is true from the moment that the daemon stops.
	ended bool
	// starts are those of users under way, calm is when what followed the last one will be over.
	starts int
	calm   time.Time
	// failed is when a clone could last not be made.
	failed time.Time
}

// making is a clone that is being made.
type making struct {
	vm   api.VM
	op   *operation.Operation
	done chan struct{} // closed when it is ready, or never will be
	// wanted is set by a start that has decided to wait for it.
	wanted bool
}

const (
	// calmAfter is how long after a start the pool is left alone: the caller's command runs now.
	calmAfter = 250 * time.Millisecond
	// poolEvery is how often memory is looked at while there is something in the pool, or something missing.
	poolEvery = 5 * time.Second
	// poolRetry is how long it is left alone when a clone could not be made.
	poolRetry = 30 * time.Second
)

// PoolState is how many clones may be taken, and how many there should be.
func (s *Service) PoolState() (ready, wanted int) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return len(s.pool.ready), s.PoolSize
}

// look makes the keeper look again.
func (p *pool) look() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// started notes what users start.
func (p *pool) started(vm api.VM) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = vm
}

// busy counts a user's start, and returns what ends it.
func (s *Service) busy() func() {
	p := &s.pool
	p.mu.Lock()
	p.starts++
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		p.starts--
		p.calm = s.Now().Add(calmAfter)
		p.mu.Unlock()
		p.look()
	}
}

// add makes a clone one that may be taken.
func (p *pool) add(vm api.VM) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready = append(p.ready, vm)
}

// claim takes the oldest clone that passes out of the pool: it is the caller's to give away or to remove.
func (p *pool) claim(pass func(api.VM) bool) (api.VM, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.IndexFunc(p.ready, pass); i >= 0 && !p.ended {
		vm := p.ready[i]
		p.ready = slices.Delete(p.ready, i, i+1)
		return vm, true
	}
	return api.VM{}, false
}

// youngest is claim for what is given up first.
func (p *pool) youngest() (api.VM, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.ready) - 1
	if last < 0 {
		return api.VM{}, false
	}
	vm := p.ready[last]
	p.ready = p.ready[:last]
	return vm, true
}

// keepPool fills the pool and gives it up for as long as the daemon lives.
func (s *Service) keepPool(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	resting := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.pool.wake:
		case <-timer.C:
			if view, _ := s.poolView(true, 0); resting && view.Next() == template.PoolRests { // memory is all that has changed by itself
				timer.Reset(poolEvery)
				continue
			}
		}
		again, err := s.tendPool(ctx)
		if err != nil && ctx.Err() == nil {
			s.Log.Warn("cannot keep the pool", "error", err)
			again = poolRetry
		}
		resting = err == nil && again == poolEvery
		timer.Stop()
		if again > 0 {
			timer.Reset(again)
		}
	}
}

// tendPool does what is to be done, and says when to look again if nothing happens before; 0 is never.
func (s *Service) tendPool(ctx context.Context) (again time.Duration, err error) {
	kind, found, err := s.poolKind(ctx)
	if err != nil {
		return poolRetry, err
	}
	s.pool.mu.Lock()
	if found && serves(s.pool.last, kind.vm) {
		s.pool.armed = true
	}
	s.pool.mu.Unlock()
	// What no start would take any more goes.
	if err := s.dropPooled(ctx, func(vm api.VM) bool { return !found || !kind.fits(vm) || !s.isUp(vm.ID) }); err != nil {
		return poolRetry, err
	}
	for ctx.Err() == nil {
		view, wait := s.poolView(found, kind.price())
		switch view.Next() {
		case template.PoolRests:
			if view.Have > 0 {
				return poolEvery, nil
			}
			return 0, nil
		case template.PoolWaits:
			return wait, nil
		case template.PoolGivesUp:
			if given, err := s.giveUp(ctx); err != nil || !given {
				return poolEvery, err
			}
		case template.PoolMakes:
			if err := s.fillOne(ctx, kind); err != nil {
				return poolRetry, err
			}
		}
	}
	return 0, nil
}

// poolView is what the policy looks at, and for how long to wait where it says so.
func (s *Service) poolView(found bool, price int64) (template.Pool, time.Duration) {
	memory := s.Memory()
	reserve := s.PoolReserve
	if reserve == 0 {
		reserve = memory.Total / 8
	}
	p := &s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	view := template.Pool{
		Wanted: s.PoolSize, Have: len(p.ready), Armed: p.armed && !p.ended, Template: found, Memory: memory, Reserve: reserve, Price: price,
	}
	if p.making != nil {
		view.Have++
	}
	now, wait := s.Now(), poolEvery
	if calm := p.calm.Sub(now); calm > 0 {
		view.Busy, wait = true, calm
	}
	if failed := p.failed.Add(poolRetry).Sub(now); failed > 0 && !p.failed.IsZero() {
		view.Busy, wait = true, failed
	}
	view.Busy = view.Busy || p.starts > 0
	return view, wait
}

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
	_, err := s.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
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
	s.goDo(func(ctx context.Context) {
		if err := s.removePooled(context.WithoutCancel(ctx), id); err != nil {
			s.Log.Error("cannot remove a clone of the pool", "vm", id, "error", err)
		}
		s.pool.look()
	})
}

// reconcilePooled takes up a clone that an earlier daemon has put into the pool, or removes what is left of it.
func (s *Service) reconcilePooled(ctx context.Context, vm api.VM) error {
	var l *liveVM
	if err := s.withLock(ctx, vm.ID, func() error {
		if vm.Ready {
			l = s.adopt(ctx, vm)
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
	_, alive := s.vmAlive(id)
	return alive
}

// EndPool empties the pool for good: a daemon that stops leaves nothing behind that nobody has asked for.
func (s *Service) EndPool(ctx context.Context) error {
	s.pool.mu.Lock()
	s.pool.ended = true
	s.pool.mu.Unlock()
	return s.dropPooled(ctx, func(api.VM) bool { return true })
}
