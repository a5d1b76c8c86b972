package vm

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/image"
	"banger/internal/layer"
	"banger/internal/store"
)

// How long after a point its VM's chains are looked at, when what was thawed from it should be up; and how long a further point
// waits for chains that are being made short, where it must.
const (
	shortenAfter = 2 * time.Second
	shortenWait  = 2 * time.Second
)

// chains keeps the chains of layers short that VMs' disks lie on.
type chains struct {
	store    *store.Store
	records  *Records
	locks    *vmLocks
	machines *machines
	layers   *layer.Service
	images   *image.Service
	alive    func(id string) (*liveVM, bool)
	life     *background
	paths    config.Paths
	log      *slog.Logger
	now      func() time.Time

	// mu protects the following. Nothing waits while holding it.
	mu sync.Mutex
	// flattenings are under way, flattenDue are to come; by VM.
	flattenings map[string]*flattening
	flattenDue  map[string]bool
}

// flattening is one VM's chains being made short, in the background: without the VM's lock, so that nobody waits for it.
type flattening struct {
	id     string
	plans  []shortening
	cancel context.CancelFunc
	// done is closed at the end; only then are plans to be read. They are settled once, with the VM's lock held.
	done    chan struct{}
	settled bool
}

// later makes a VM's chains short that have at least so many layers, some time after now. Another call meanwhile changes
// nothing: points that follow one another closely must not put it off for ever.
func (c *chains) later(id string, least int) {
	c.mu.Lock()
	due := c.flattenDue[id]
	c.flattenDue[id] = true
	c.mu.Unlock()
	if !due {
		c.life.do(func(ctx context.Context) { c.whenDue(ctx, id, least) })
	}
}

func (c *chains) whenDue(ctx context.Context, id string, least int) {
	timer := time.NewTimer(shortenAfter)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	c.mu.Lock()
	delete(c.flattenDue, id)
	c.mu.Unlock()
	err := c.locks.with(ctx, id, func() error {
		vm, err := c.store.VM(ctx, id)
		l, alive := c.alive(id)
		if err == nil && alive {
			c.begin(ctx, vm, l, least)
		}
		return err
	})
	if err != nil && ctx.Err() == nil && api.CodeOf(err) != api.CodeNotFound {
		c.log.Warn("cannot look at the layers of a VM", "vm", id, "error", err)
	}
}

// begin begins, unless there is nothing to be done or it is under way. Called with the VM's lock held.
func (c *chains) begin(ctx context.Context, vm api.VM, l *liveVM, least int) *flattening {
	c.mu.Lock()
	f := c.flattenings[vm.ID]
	c.mu.Unlock()
	if f != nil {
		return f
	}
	plans := c.planShort(vm, c.layerRecords(ctx), least)
	if len(plans) == 0 {
		return nil
	}
	life, cancel := context.WithCancel(c.life.ctx)
	f = &flattening{id: vm.ID, plans: plans, cancel: cancel, done: make(chan struct{})}
	c.mu.Lock()
	c.flattenings[vm.ID] = f
	c.mu.Unlock()
	c.life.do(func(ctx context.Context) {
		defer cancel()
		c.flatten(life, vm, l, f)
		close(f.done)
		err := c.locks.with(ctx, f.id, func() error { return c.settle(ctx, f) })
		if err != nil && ctx.Err() == nil {
			c.log.Warn("cannot record that chains are short", "vm", f.id, "error", err)
		}
	})
	return f
}

// flatten carries the plans out.
func (c *chains) flatten(ctx context.Context, vm api.VM, l *liveVM, f *flattening) {
	for n := range f.plans {
		p := &f.plans[n]
		begin := c.now()
		err := l.instance.Flatten(ctx, p.serial, p.base)
		if api.CodeOf(err) == api.CodeNotFound && p.to != "" && c.machines.backend(vm).OneFormat() {
			// A daemon before us has made it short, and died before it could record that.
			p.to, p.base = "", c.belowLayers(vm, p.kind)
			err = l.instance.Flatten(ctx, p.serial, p.base)
		}
		if p.done = err == nil; p.done {
			c.log.Info("made a chain of layers short", "vm", vm.ID, "drive", p.serial, "bytes", p.bytes, "took", c.now().Sub(begin))
		} else if code := api.CodeOf(err); code != api.CodeCancelled && ctx.Err() == nil && !l.isGone() {
			c.log.Warn("cannot make a chain of layers short", "vm", vm.ID, "drive", p.serial, "error", err)
		}
	}
}

// settle records what one that is done has come to, and removes the layers that nothing lies on any more. Called
// with the VM's lock held. Until it is recorded, the record names more layers than the disk lies on, which does no harm.
func (c *chains) settle(ctx context.Context, f *flattening) error {
	if f.settled {
		return nil
	}
	f.settled = true
	c.mu.Lock()
	delete(c.flattenings, f.id)
	c.mu.Unlock()
	changed := false
	_, err := c.records.update(ctx, f.id, func(vm *api.VM) ([]api.Event, error) {
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
	return c.layers.Sweep(ctx)
}

// undisturbed ends whatever makes the VM's chains short, for who is about to make a point of it, and returns its record as it then is. It
// waits only where the chain is so long that a further layer would cost every later start. l is nil for a VM without a VMM.
func (c *chains) undisturbed(ctx context.Context, vm api.VM, l *liveVM) (api.VM, error) {
	c.mu.Lock()
	f := c.flattenings[vm.ID]
	c.mu.Unlock()
	if f == nil && !onLayers(vm) {
		return vm, nil // as most are: nothing is to be looked up
	}
	deep := depth(c.layerRecords(ctx), vm)
	if f == nil && deep >= mustShorten && l != nil { // a suspended VM's are made short when it runs again
		f = c.begin(ctx, vm, l, mustShorten)
	}
	if f == nil {
		return vm, nil
	}
	if err := f.wait(ctx, deep); err != nil {
		return vm, err
	}
	if err := c.settle(context.WithoutCancel(ctx), f); err != nil {
		return vm, err
	}
	return c.store.VM(ctx, vm.ID)
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
