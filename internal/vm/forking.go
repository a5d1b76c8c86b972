package vm

import (
	"context"
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"banger/api"
	"banger/internal/guest/ssh"
	"banger/internal/operation"
)

// fork is one making of forks under way.
type fork struct {
	*forks
	op     *operation.Operation
	source api.VM
	live   *liveVM // the source's
	vms    []api.VM
	boots  []*boot
	point  *freezing
	dir    string // of the point
	// frozen is closed when the point is there.
	frozen chan struct{}
	// waiting is closed when as many VMMs as start beforehand wait for the point.
	waiting chan struct{}
	arrived atomic.Int32
}

// run makes all forks, or none: one that is not whole is nobody's.
func (k *fork) run(ctx context.Context) error {
	k.op.SetResult(k.source.ID)
	k.op.Undo("forks", func(ctx context.Context) error {
		return k.each(0, func(n int) error { return k.remove(ctx, k.vms[n].ID) })
	})
	for _, vm := range k.vms {
		unlock, err := k.locks.Lock(ctx, vm.ID)
		if err != nil {
			return err
		}
		unlock = sync.OnceFunc(unlock)
		defer unlock()
		k.op.Undo("lock", func(context.Context) error { unlock(); return nil })
	}
	dir, err := k.points.tempDir("fork-*")
	if err != nil {
		return err
	}
	k.dir = dir
	defer func() { _ = os.RemoveAll(dir) }() // emptied at the next start, too
	if err := k.make(ctx); err != nil {
		return err
	}
	k.op.Keep()
	return nil
}

// make holds the source's lock until the source is on its own again.
func (k *fork) make(ctx context.Context) (err error) {
	unlock, err := k.locks.Lock(ctx, k.source.ID)
	if err != nil {
		return err
	}
	unlock = sync.OnceFunc(unlock)
	defer unlock()
	defer func() {
		if k.point != nil {
			err = errors.Join(err, k.point.close(ctx))
		}
	}()
	if err := k.op.Step(ctx, "prepare", k.prepare); err != nil {
		return err
	}
	thawed, tctx := errgroup.WithContext(ctx)
	err = k.op.Step(ctx, "freeze", func(ctx context.Context) error {
		k.begin(tctx, thawed)
		return k.freeze(ctx, tctx)
	})
	if err != nil {
		// The VMMs that wait for a point that will not be.
		thawed.Go(func() error { return err })
		return errors.Join(err, ignore(thawed.Wait(), err))
	}
	unlock()
	return k.op.Step(ctx, "thaw", func(context.Context) error { return thawed.Wait() })
}

// ignore leaves out an error that is only the other one again.
func ignore(err, known error) error {
	if errors.Is(err, known) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// each does something for all forks, at most limit at once; 0 is all at once.
func (k *fork) each(limit int, fn func(n int) error) error {
	var g errgroup.Group
	if limit > 0 {
		g.SetLimit(limit)
	}
	errs := make([]error, len(k.vms))
	for n := range k.vms {
		g.Go(func() error { errs[n] = fn(n); return nil })
	}
	_ = g.Wait() // every failure is in errs
	return errors.Join(errs...)
}

// prepare makes all that can be made while the source runs.
func (k *fork) prepare(ctx context.Context) (err error) {
	if k.source, err = k.store.VM(ctx, k.source.ID); err != nil {
		return err
	}
	if k.live, err = k.points.forkable(k.source); err != nil {
		return err
	}
	if k.point, err = k.points.plan(ctx, k.source, k.live, k.dir); err != nil {
		return err
	}
	k.point.stage = k.op.Reached
	if err := k.point.begin(); err != nil {
		return err
	}
	k.op.Reached("begun")
	var g errgroup.Group
	g.Go(func() error { return k.point.moveOn(ctx) })
	g.Go(func() error { return k.prepareForks(ctx) })
	return g.Wait()
}

// prepareForks makes the forks' directories, keys, disks and links.
func (k *fork) prepareForks(ctx context.Context) error {
	keys := map[string]string{}
	var mu sync.Mutex
	if err := k.each(2*runtime.NumCPU(), func(n int) error {
		vm := k.vms[n]
		if err := k.machines.makeDirs(vm); err != nil {
			return err
		}
		private, public, err := ssh.NewHostKey()
		if err != nil {
			return err
		}
		mu.Lock()
		keys[vm.ID] = public
		mu.Unlock()
		return writeSecret(k.paths.VM(vm.ID).HostKey(), private)
	}); err != nil {
		return err
	}
	if err := k.record(ctx, keys); err != nil {
		return err
	}
	k.boots = make([]*boot, len(k.vms))
	return k.each(2*runtime.NumCPU(), func(n int) (err error) {
		vm := k.vms[n]
		b := &boot{starts: k.starts, op: k.op, vm: vm}
		k.boots[n] = b
		if b.machine, err = k.machines.of(ctx, vm); err != nil {
			return err
		}
		return errors.Join(k.points.makeTops(ctx, vm, k.point.point), k.knownHosts.Pin(hostNames(vm), vm.Runtime.SSHHostKey), b.prepareLink(ctx))
	})
}

// record says which layers the forks lie on, before the layers can be swept.
func (k *fork) record(ctx context.Context, keys map[string]string) (err error) {
	ids := make([]string, len(k.vms))
	for n, vm := range k.vms {
		ids[n] = vm.ID
	}
	k.vms, err = k.store.UpdateVMs(ctx, ids, func(vm *api.VM) ([]api.Event, error) {
		labels, remove, autostart := vm.Spec.Labels, vm.Spec.AutoRemove, vm.Spec.Autostart
		vm.Spec = k.source.Spec // it may have been changed since the forks were reserved
		vm.Spec.Labels, vm.Spec.AutoRemove, vm.Spec.Autostart = labels, remove, autostart
		vm.Runtime.SSHHostKey = keys[vm.ID]
		k.point.point.lieOn(vm, k.paths)
		return nil, nil
	})
	k.records.Wake()
	return err
}

// begin starts the forks' VMMs, one more at once than there are CPUs, which is enough to keep them busy: these wait for the point.
func (k *fork) begin(ctx context.Context, g *errgroup.Group) {
	atOnce := min(runtime.NumCPU()+1, len(k.boots))
	turns := make(chan struct{}, atOnce)
	k.waiting = make(chan struct{})
	for _, b := range k.boots {
		g.Go(func() error {
			select {
			case turns <- struct{}{}:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			defer func() { <-turns }()
			return k.thaw(ctx, b, int32(atOnce))
		})
	}
}

// thaw brings one fork to where it can be used.
func (k *fork) thaw(ctx context.Context, b *boot, first int32) error {
	f := k.point.point.frozen(k.paths, k.dir)
	f.Await = func(ctx context.Context) error {
		if k.arrived.Add(1) == first {
			close(k.waiting)
		}
		select {
		case <-k.frozen:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	var intro *introduction
	intro, f.First = k.bringUp.introduction(ctx, b.vm.ID)
	if len(k.boots) == 1 {
		f.Stage = k.op.Stage
	}
	instance, err := k.machines.backend(b.vm).Hypervisor.Thaw(ctx, b.machine, f, b.recordVMM)
	if err != nil {
		return err
	}
	if err := b.running(ctx, instance, k.source.Runtime.Thawed); err != nil {
		return err
	}
	b.live.introduction = intro
	ctx, cancel := context.WithTimeoutCause(ctx, k.readyTimeout, errNeverReady)
	defer cancel()
	if err := k.bringUp.personalise(ctx, b.live); err != nil {
		return k.neverForked(ctx, b, err)
	}
	if err := k.bringUp.waitReady(ctx, b.live); err != nil {
		return k.neverForked(ctx, b, err)
	}
	return nil
}

// neverForked words the failure of a guest that did not come up: its VM goes, so that this is all that is left of it.
func (k *fork) neverForked(ctx context.Context, b *boot, cause error) error {
	if !errors.Is(context.Cause(ctx), errNeverReady) {
		return cause
	}
	return api.Errorf(api.CodeNotReady, "the fork %s did not become ready in %s (%w); the end of its console:\n%s", b.vm.Name, k.readyTimeout, cause, consoleTail(k.paths.VM(b.vm.ID)))
}

// freeze takes the point once the first VMMs wait for it; vmms ends when one of them has failed.
func (k *fork) freeze(ctx, vmms context.Context) error {
	select {
	case <-k.waiting:
	case <-vmms.Done():
		return context.Cause(vmms)
	}
	k.op.Reached("waiting")
	p, err := k.point.freeze(ctx, true)
	if err != nil {
		return err
	}
	operation.Measured(ctx, "stood still", p.StoodStill)
	k.op.Progress(k.point.memoryBytes, 0)
	k.op.Reached("frozen")
	close(k.frozen)
	k.point.stepClock(ctx, k.op)
	return nil
}
