package vm

import (
	"context"
	"time"

	"banger/api"
)

// How long after a point its VM's chains are looked at, when what was thawed from it should be up; and how long a further point
// waits for chains that are being made short, where it must.
const (
	shortenAfter = 2 * time.Second
	shortenWait  = 2 * time.Second
)

// flattening is one VM's chains being made short, in the background: without the VM's lock, so that nobody waits for it.
type flattening struct {
	id     string
	plans  []shortening
	cancel context.CancelFunc
	// done is closed at the end; only then are plans to be read. They are settled once, with the VM's lock held.
	done    chan struct{}
	settled bool
}

// flattenLater makes a VM's chains short that have at least so many layers, some time after now. Another call meanwhile changes
// nothing: points that follow one another closely must not put it off for ever.
func (s *Service) flattenLater(id string, least int) {
	s.mu.Lock()
	due := s.flattenDue[id]
	s.flattenDue[id] = true
	s.mu.Unlock()
	if !due {
		s.life.do(func(ctx context.Context) { s.flattenWhenDue(ctx, id, least) })
	}
}

func (s *Service) flattenWhenDue(ctx context.Context, id string, least int) {
	timer := time.NewTimer(shortenAfter)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	s.mu.Lock()
	delete(s.flattenDue, id)
	s.mu.Unlock()
	err := s.locks.with(ctx, id, func() error {
		vm, err := s.Store.VM(ctx, id)
		l, alive := s.vmAlive(id)
		if err == nil && alive {
			s.beginFlattening(ctx, vm, l, least)
		}
		return err
	})
	if err != nil && ctx.Err() == nil && api.CodeOf(err) != api.CodeNotFound {
		s.Log.Warn("cannot look at the layers of a VM", "vm", id, "error", err)
	}
}

// beginFlattening begins, unless there is nothing to be done or it is under way. Called with the VM's lock held.
func (s *Service) beginFlattening(ctx context.Context, vm api.VM, l *liveVM, least int) *flattening {
	s.mu.Lock()
	f := s.flattenings[vm.ID]
	s.mu.Unlock()
	if f != nil {
		return f
	}
	plans := s.planShort(vm, s.layerRecords(ctx), least)
	if len(plans) == 0 {
		return nil
	}
	life, cancel := context.WithCancel(s.life.ctx)
	f = &flattening{id: vm.ID, plans: plans, cancel: cancel, done: make(chan struct{})}
	s.mu.Lock()
	s.flattenings[vm.ID] = f
	s.mu.Unlock()
	s.life.do(func(ctx context.Context) {
		defer cancel()
		s.flatten(life, vm, l, f)
		close(f.done)
		err := s.locks.with(ctx, f.id, func() error { return s.settleFlattening(ctx, f) })
		if err != nil && ctx.Err() == nil {
			s.Log.Warn("cannot record that chains are short", "vm", f.id, "error", err)
		}
	})
	return f
}

// flatten carries the plans out.
func (s *Service) flatten(ctx context.Context, vm api.VM, l *liveVM, f *flattening) {
	for n := range f.plans {
		p := &f.plans[n]
		begin := s.Now()
		err := l.instance.Flatten(ctx, p.serial, p.base)
		if api.CodeOf(err) == api.CodeNotFound && p.to != "" && s.backend(vm).OneFormat() {
			// A daemon before us has made it short, and died before it could record that.
			p.to, p.base = "", s.belowLayers(vm, p.kind)
			err = l.instance.Flatten(ctx, p.serial, p.base)
		}
		if p.done = err == nil; p.done {
			s.Log.Info("made a chain of layers short", "vm", vm.ID, "drive", p.serial, "bytes", p.bytes, "took", s.Now().Sub(begin))
		} else if code := api.CodeOf(err); code != api.CodeCancelled && ctx.Err() == nil && !l.isGone() {
			s.Log.Warn("cannot make a chain of layers short", "vm", vm.ID, "drive", p.serial, "error", err)
		}
	}
}

// settleFlattening records what one that is done has come to, and removes the layers that nothing lies on any more. Called
// with the VM's lock held. Until it is recorded, the record names more layers than the disk lies on, which does no harm.
func (s *Service) settleFlattening(ctx context.Context, f *flattening) error {
	if f.settled {
		return nil
	}
	f.settled = true
	s.mu.Lock()
	delete(s.flattenings, f.id)
	s.mu.Unlock()
	changed := false
	_, err := s.Records.update(ctx, f.id, func(vm *api.VM) ([]api.Event, error) {
		changed = false
		for _, now := range topsOf(*vm) {
			for _, p := range f.plans {
				// Another disk by now, or on other layers: then this is no news of it.
				if !p.done || p.top.path != now.path || p.top.layer != now.layer {
					continue
				}
				*layerOf(vm, p.top) = p.to
				changed = true
			}
		}
		return nil, nil
	})
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	}
	if err != nil || !changed {
		return err
	}
	return s.Layers.Sweep(ctx)
}

// undisturbed ends whatever makes the VM's chains short, for who is about to make a point of it, and returns its record as it then is. It
// waits only where the chain is so long that a further layer would cost every later start. l is nil for a VM without a VMM.
func (s *Service) undisturbed(ctx context.Context, vm api.VM, l *liveVM) (api.VM, error) {
	s.mu.Lock()
	f := s.flattenings[vm.ID]
	s.mu.Unlock()
	if f == nil && !onLayers(vm) {
		return vm, nil // as most are: nothing is to be looked up
	}
	deep := depth(s.layerRecords(ctx), vm)
	if f == nil && deep >= mustShorten && l != nil { // a suspended VM's are made short when it runs again
		f = s.beginFlattening(ctx, vm, l, mustShorten)
	}
	if f == nil {
		return vm, nil
	}
	if err := f.wait(ctx, deep); err != nil {
		return vm, err
	}
	if err := s.settleFlattening(context.WithoutCancel(ctx), f); err != nil {
		return vm, err
	}
	return s.Store.VM(ctx, vm.ID)
}

func (f *flattening) wait(ctx context.Context, deep int) error {
	var enough <-chan time.Time
	switch {
	case deep < mustShorten:
		f.cancel()
	case deep < deepest:
		timer := time.NewTimer(shortenWait)
		defer timer.Stop()
		enough = timer.C
	}
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-enough:
	}
	f.cancel()
	<-f.done // it was told
	return nil
}
