package vm

import (
	"context"
	"errors"
	"slices"
	"sync"

	"banger/api"
)

// giveUp removes the youngest clone of the pool; false when there was none.
func (p *Pool) giveUp(ctx context.Context) (bool, error) {
	vm, ok := p.queue.youngest()
	if !ok {
		return p.queue.cancelMaking(), nil
	}
	p.log.Info("a clone of the pool is given up", "vm", vm.ID)
	return true, p.remove(ctx, vm.ID)
}

// drop removes the clones that pass, one that is being made too.
func (p *Pool) drop(ctx context.Context, pass func(api.VM) bool) error {
	q := p.queue
	q.mu.Lock()
	var gone []api.VM
	q.ready = slices.DeleteFunc(q.ready, func(vm api.VM) bool {
		if pass(vm) {
			gone = append(gone, vm)
			return true
		}
		return false
	})
	m := q.making
	q.mu.Unlock()
	errs := make([]error, len(gone))
	var all sync.WaitGroup
	for i, vm := range gone {
		all.Go(func() { errs[i] = p.remove(ctx, vm.ID) })
	}
	if m != nil && pass(m.vm) {
		m.op.Cancel()
		<-m.done
	}
	all.Wait()
	return errors.Join(errs...)
}

// remove removes a clone that is nobody's; one that is somebody's by now stays.
func (p *Pool) remove(ctx context.Context, id string) error {
	_, err := p.records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
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
	return p.removeVM(ctx, id)
}

// drain removes the clones that pass, and waits for another start before it makes new ones.
func (p *Pool) drain(ctx context.Context, pass func(api.VM) bool) error {
	p.queue.mu.Lock()
	p.queue.armed, p.queue.last = false, api.VM{}
	p.queue.mu.Unlock()
	return p.drop(ctx, pass)
}

// isPooled reports whether a VM is nobody's.
func (p *Pool) isPooled(ctx context.Context, id string) bool {
	vm, err := p.store.VM(ctx, id)
	return err == nil && vm.State == api.StatePooled
}

// throwAway removes a clone of the pool that is good for nothing any more.
func (p *Pool) throwAway(id string) {
	p.queue.claim(func(vm api.VM) bool { return vm.ID == id })
	p.life.do(func(ctx context.Context) {
		if err := p.remove(context.WithoutCancel(ctx), id); err != nil {
			p.log.Error("cannot remove a clone of the pool", "vm", id, "error", err)
		}
		p.queue.look()
	})
}

// reconcile takes up a clone that an earlier daemon has put into the pool, or removes what is left of it.
func (p *Pool) reconcile(ctx context.Context, vm api.VM) error {
	var l *liveVM
	if err := p.locks.with(ctx, vm.ID, func() error {
		if vm.Ready {
			l = p.vmms.adopt(ctx, vm)
		}
		return nil
	}); err != nil {
		return err
	}
	if l == nil {
		return p.remove(ctx, vm.ID)
	}
	p.bringUp.keepClock(l)
	p.queue.add(vm)
	return nil
}

// End empties the pool for good: a daemon that stops leaves nothing behind that nobody has asked for.
func (p *Pool) End(ctx context.Context) error {
	p.queue.mu.Lock()
	p.queue.ended = true
	p.queue.mu.Unlock()
	return p.drop(ctx, func(api.VM) bool { return true })
}
