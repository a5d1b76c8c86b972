package vm

import (
	"context"
	"errors"
	"sync"
	"time"

	"banger/api"
	"banger/internal/operation"
	"banger/internal/template"
)

// oomScorePooled is how gladly the kernel ends a clone that is nobody's, oomScore one that is somebody's.
const (
	oomScorePooled = 900
	oomScore       = 500
)

// poolKind is what the pool's clones are like.
type poolKind struct {
	vm   api.VM // spec and digests
	want template.Want
	base api.Template
}

// fits reports whether a VM of the pool is of this kind, thawed from the template that a start would take now.
func (k poolKind) fits(vm api.VM) bool {
	return vm.Runtime.RootTemplateID == k.base.ID && serves(vm, k.vm)
}

func (k poolKind) price() int64 { return k.vm.Spec.MemoryBytes + overhead }

// serves reports whether a clone is what a start of another VM would make.
func serves(pooled, vm api.VM) bool {
	a, b := pooled.Spec, vm.Spec
	return pooled.Runtime.ImageDigest == vm.Runtime.ImageDigest && pooled.Runtime.KernelDigest == vm.Runtime.KernelDigest &&
		a.CPUs == b.CPUs && a.MemoryBytes == b.MemoryBytes && a.DiskBytes == b.DiskBytes && a.RootBytes == b.RootBytes && a.Net == b.Net && a.Hypervisor == b.Hypervisor
}

// kind is the default image and shape; found is false where there is no template of it, or no pool is wanted.
func (p *Pool) kind(ctx context.Context) (k poolKind, found bool, err error) {
	if p.size == 0 {
		return k, false, nil
	}
	if k.vm.Spec, err = p.specs.forHost(ctx, p.specs.withDefaults(api.VMSpec{})); err != nil {
		return k, false, nil //nolint:nilerr // a user who asks for one is told why there can be none
	}
	if err := p.specs.pinObjects(ctx, &k.vm); err != nil || k.vm.Runtime.ImageDigest == "" || k.vm.Runtime.KernelDigest == "" {
		return k, false, nil //nolint:nilerr // likewise
	}
	if k.want, err = p.templateWant(ctx, k.vm); err != nil {
		return k, false, err
	}
	k.base, found, err = p.templates.Get(ctx, k.want)
	return k, found, err
}

// fillOne makes one clone and returns when it may be taken.
func (p *Pool) fillOne(ctx context.Context, k poolKind) error {
	vm := api.VM{
		ID: p.newID(), State: api.StatePooled, Spec: k.vm.Spec, Pending: []string{}, CreatedAt: p.now().UTC(),
	}
	vm.Name = "~" + vm.ID // no user can give a name like this
	vm.Runtime.ImageDigest, vm.Runtime.KernelDigest = k.vm.Runtime.ImageDigest, k.vm.Runtime.KernelDigest
	vm.Runtime.RootTemplateID = k.base.ID
	p.specs.derive(&vm)
	vm, _, err := p.store.InsertVM(ctx, vm, "", p.specs.reserve)
	if err != nil {
		return err
	}
	m := &making{vm: vm, done: make(chan struct{})}
	finish := sync.OnceFunc(func() {
		p.queue.mu.Lock()
		p.queue.making = nil
		p.queue.mu.Unlock()
		close(m.done)
	})
	p.queue.mu.Lock()
	ended := p.queue.ended
	if !ended {
		m.op = p.operations.Start("pool.fill", vm.ID, func(ctx context.Context, op *operation.Operation) error {
			op.Undo("create", func(ctx context.Context) error { defer finish(); return p.remove(ctx, vm.ID) })
			b := &boot{starts: p.starts, op: op, vm: vm, base: k.base}
			if err := b.fill(ctx); err != nil {
				return err
			}
			op.Keep()
			finish()
			return nil
		})
		p.queue.making = m
	}
	p.queue.mu.Unlock()
	if ended {
		return p.remove(ctx, vm.ID)
	}
	_, err = m.op.Wait(ctx)
	if err != nil && api.CodeOf(err) != api.CodeCancelled {
		p.queue.mu.Lock()
		p.queue.failed = p.now()
		p.queue.mu.Unlock()
		return err
	}
	return nil
}

// fill is the list of steps to a clone that waits: all of a start, but for what makes it somebody's.
func (b *boot) fill(ctx context.Context) error {
	unlock, err := b.locks.Lock(ctx, b.vm.ID)
	if err != nil {
		return err
	}
	unlock = sync.OnceFunc(unlock)
	b.op.Undo("lock", func(context.Context) error { unlock(); return nil })
	if b.machine, err = b.machines.of(ctx, b.vm); err != nil {
		return err
	}
	if err := b.steps(ctx, step{"disks", b.disks}, step{"network", b.prepareLink}, step{"thaw", b.thawPooled}, step{"warm", b.warm}); err != nil {
		return err
	}
	if err := b.pooled(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	unlock()
	return nil
}

// thawPooled gives up where the template does not thaw: a user's start says so, and mends it.
func (b *boot) thawPooled(ctx context.Context) error {
	f := b.templates.Frozen(b.base)
	var intro *introduction
	intro, f.First = b.bringUp.introduction(ctx, b.vm.ID)
	instance, err := b.machines.backend(b.vm).Hypervisor.Thaw(ctx, b.machine, f, b.recordVMM)
	if err != nil {
		return errors.Join(err, b.link.Close())
	}
	err = b.running(ctx, instance, true)
	b.live.introduction = intro
	return errors.Join(err, b.host.SetOOMScore(instance.Process(), oomScorePooled))
}

// warmTime bounds the warming of a clone. warmRounds is how often everything is done: under emulation the first time takes
// three times as long as the third, and those after that gain little.
const (
	warmTime   = 30 * time.Second
	warmRounds = 2
)

// warm has the guest do what it will be asked to do.
func (b *boot) warm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, warmTime)
	defer cancel()
	if err := b.bringUp.personalise(ctx, b.live); err != nil {
		return err
	}
	health, err := b.live.agent.WaitReady(ctx)
	if err != nil {
		return err
	}
	names := []string{"banger", anonymous} // a name is only written where it changes
	if health.Init == "systemd" {          // which has services started again at each change
		names = []string{anonymous}
	}
	for range warmRounds {
		_, _ = b.live.agent.ExecWait(ctx, api.ExecSpec{Argv: []string{"true"}}) // what an image has no program for cannot be warmed
		for _, name := range names {
			if _, err := b.live.agent.Personalise(ctx, b.bringUp.christening(name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// pooled makes the clone one that may be taken.
func (b *boot) pooled(ctx context.Context) error {
	vm, err := b.records.update(ctx, b.vm.ID, func(vm *api.VM) ([]api.Event, error) {
		now := b.now().UTC()
		vm.Ready, vm.ReadyAt = true, &now
		return nil, nil
	})
	if err != nil {
		return err
	}
	b.bringUp.keepClock(b.live)
	b.queue.add(vm)
	return nil
}
