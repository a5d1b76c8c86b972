package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"banger/api"
	"banger/internal/hypervisor"
	"banger/internal/operation"
	"banger/internal/store"
)

// freezing is a point being made of a running or paused VM:
//
//	f, err := points.plan(…)             // the layers have ids; records may name them
//	defer f.close(ctx)                  // …and must, by then
//	f.begin()                           // the layers are there: others' disks can be made on them
//	f.moveOn(ctx)                       // the guest's new disks are there, and recorded
//	p, err := f.freeze(ctx, transient)  // the state is in dir; the guest goes on
//
// All with the VM's lock held. The record is written before the guest moves on to its new disks. If the daemon ends in between, reconcile
// asks the VMM which are in use; if the VMM ends too, the new ones are right in any case, for what lies below them is all that was ever written.
type freezing struct {
	*points
	vm  api.VM // as it was before
	l   *liveVM
	dir string
	// point is whole when freeze has returned, but for its times from the beginning.
	point   point
	release func()
	pending bool // begun, and neither frozen nor undone
	// stage, if not nil, is told of the stages of the freeze.
	stage func(name string)
	// overlays are the guest's new disks, by serial.
	overlays map[string]string
	// memoryBytes is how much of the guest's memory was written.
	memoryBytes int64
}

// plan prepares a point of vm, to be kept in dir, which exists, is empty, and is the caller's.
func (pt *points) plan(ctx context.Context, vm api.VM, l *liveVM, dir string) (*freezing, error) {
	vm, err := pt.chains.undisturbed(ctx, vm, l)
	if err != nil {
		return nil, err
	}
	m, err := pt.machines.of(ctx, vm)
	if err != nil {
		return nil, err
	}
	b := pt.machines.backend(vm)
	stamp, err := b.Hypervisor.Stamp(ctx, m)
	if err != nil {
		return nil, err
	}
	r := vm.Runtime
	f := &freezing{points: pt, vm: vm, l: l, dir: dir, point: point{
		Stamp: stamp, RootLayerID: pt.newID(), WorkLayerID: pt.newID(), RootTemplateID: r.RootTemplateID, WorkTemplateID: r.WorkTemplateID,
		RootFormat: b.Driver(r.RootLayerID).Format(), WorkFormat: b.Driver(r.WorkLayerID).Format(),
		Spec: vm.Spec, ImageDigest: r.ImageDigest, KernelDigest: r.KernelDigest,
	}}
	if r.Thawed {
		f.point.TemplateID = r.RootTemplateID
	}
	f.release = pt.layers.Hold(f.point.RootLayerID, f.point.WorkLayerID)
	return f, nil
}

// after is the VM as it will be.
func (f *freezing) after() api.VM {
	vm := f.vm
	f.point.lieOn(&vm, f.paths)
	return vm
}

// begin gives the disks' files their names as layers. From then on others can lie on them, though the VM still writes to them: nobody must
// look before freeze has returned.
func (f *freezing) begin() error {
	f.pending = true
	for n, t := range topsOf(f.after()) {
		if err := f.layers.Seal(t.layer, topsOf(f.vm)[n].path); err != nil {
			return err
		}
	}
	return nil
}

// moveOn makes the disks that the VM will go on upon, and records them.
func (f *freezing) moveOn(ctx context.Context) error {
	after := f.after()
	var g errgroup.Group
	g.Go(func() error { return f.makeTops(ctx, after, f.point) })
	g.Go(f.layers.Sync)
	if err := g.Wait(); err != nil {
		return err
	}
	layers := []store.Layer{}
	f.overlays = map[string]string{}
	for n, t := range topsOf(after) {
		layers = append(layers, store.Layer{ID: t.layer, Parent: topsOf(f.vm)[n].layer, Kind: t.kind, VMID: f.vm.ID, CreatedAt: f.now()})
		f.overlays[t.serial] = t.path
	}
	_, err := f.store.AddLayers(ctx, layers, f.vm.ID, func(vm *api.VM) ([]api.Event, error) {
		f.point.lieOn(vm, f.paths)
		return nil, nil
	})
	return err
}

// freeze completes the point; a VM that ran goes on. A transient one is of no use after the daemon's end. On error the VM is as it was.
func (f *freezing) freeze(ctx context.Context, transient bool) (point, error) {
	res, err := f.l.instance.Freeze(ctx, hypervisor.Freeze{Dir: f.dir, Overlays: f.overlays, Transient: transient, Resume: true, Stage: f.stage})
	if err != nil {
		moved, known := f.movedOn(context.WithoutCancel(ctx))
		f.pending = !moved && known
		if moved {
			err = errors.Join(err, f.dropOld())
		}
		return point{}, err
	}
	f.pending = false
	f.chains.later(f.vm.ID, shortenAt)
	f.memoryBytes = res.MemoryBytes
	f.point.At, f.point.StoodStill = f.now().UTC(), res.StoodStill
	return f.point, f.dropOld()
}

// clockTime bounds setting a guest's clock.
const clockTime = 10 * time.Second

// stepClock sets the clock of a guest that goes on: it stood with the guest. A paused one's is set when it goes on.
func (f *freezing) stepClock(ctx context.Context, op *operation.Operation) {
	if f.vm.State == api.StatePaused {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, clockTime)
	defer cancel()
	if err := f.l.agent.StepClock(ctx, f.now()); err != nil {
		op.Warn("the clock of %s could not be set after it had stood still for %s: %v", f.vm.Name, f.point.StoodStill, err)
	}
}

// movedOn reports, after a failure, whether the guest is on its new disks all the same. Where that is not known nothing is touched: a VM
// without a VMM goes on with what is recorded, and of one whose VMM does not answer the next daemon asks again.
func (f *freezing) movedOn(ctx context.Context) (moved, known bool) {
	files, err := f.l.instance.DriveFiles(ctx)
	if err != nil {
		return false, false
	}
	for serial, path := range f.overlays {
		if !sameFile(files[serial], path) {
			return false, true
		}
	}
	return true, true
}

// dropOld removes the names that the layers had as the VM's disks.
func (f *freezing) dropOld() error {
	var errs []error
	for _, t := range topsOf(f.vm) {
		errs = append(errs, os.Remove(t.path))
	}
	return errors.Join(errs...)
}

// close lets sweeps judge the layers. A point that was begun and not frozen is undone: the VM runs on the disks that it had.
func (f *freezing) close(ctx context.Context) error {
	defer f.release()
	if !f.pending {
		return nil
	}
	f.pending = false
	return f.goBack(context.WithoutCancel(ctx), f.vm, f.after())
}

// goBack gives a VM the disks again that it never left: was is its record with these, is the one with new ones.
func (pt *points) goBack(ctx context.Context, was, is api.VM) error {
	_, err := pt.store.RemoveLayers(ctx, []string{is.Runtime.RootLayerID, is.Runtime.WorkLayerID}, is.ID, func(vm *api.VM) ([]api.Event, error) {
		r, w := &vm.Runtime, was.Runtime
		r.SystemOverlay, r.WorkDiskPath, r.RootLayerID, r.WorkLayerID = w.SystemOverlay, w.WorkDiskPath, w.RootLayerID, w.WorkLayerID
		return nil, nil
	})
	if err != nil {
		return err
	}
	var errs []error
	for n, t := range topsOf(is) {
		errs = append(errs, pt.machines.backend(was).Overlays.Delete(ctx, t.path), pt.layers.Unseal(t.layer, topsOf(was)[n].path, pt.machines.backend(was).FilesOf(was.Runtime.UID)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot go back to the disks of VM %s: %w", was.Name, err)
	}
	return nil
}
