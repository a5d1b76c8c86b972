package vm

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/guest"
	"banger/internal/hypervisor"
	"banger/internal/image"
	"banger/internal/layer"
	"banger/internal/network"
	"banger/internal/operation"
	"banger/internal/store"
)

// imageSaves makes images of VMs' roots.
type imageSaves struct {
	store      *store.Store
	records    *Records
	locks      *vmLocks
	operations *operation.Registry
	specs      *specs
	machines   *machines
	points     *points
	network    *network.Network
	images     *image.Service
	layers     *layer.Service
	newID      func() string
	paths      config.Paths
	admit      func(ctx context.Context, memoryBytes int64, count int) error
	// uid is what the VMMs run under that belong to no VM, readyTimeout bounds the wait for their guests.
	uid          int
	readyTimeout time.Duration
}

// SaveImage makes an image of a running or paused VM's root, while the VM runs on.
//
// What is read is a fork that never gets an identity, a network or a record: its agent sends the root's files, without what makes the
// VM this one machine, and they become a disk in the way that every other root disk does. Copying blocks instead would keep what was
// deleted in between them, the source's keys too, and the host would have to read a format that a guest can write. It costs
// about 15 s per GiB under emulation, which is what the guest's port carries.
func (sv *imageSaves) SaveImage(ctx context.Context, i api.ImageSave) (*operation.Operation, error) {
	if err := errors.Join(api.ValidateObjectName(i.Name), sv.images.NameIsFree(ctx, i.Name)); err != nil {
		return nil, err
	}
	vm, err := sv.records.Get(ctx, i.VM)
	if err != nil {
		return nil, err
	}
	if _, err := sv.points.forkable(vm); err != nil {
		return nil, err
	}
	if err := sv.admit(ctx, vm.Spec.MemoryBytes, 1); err != nil {
		return nil, err
	}
	return sv.operations.Start("image.save", vm.ID, func(ctx context.Context, op *operation.Operation) (err error) {
		base, err := sv.images.Image(ctx, vm.Runtime.ImageDigest)
		if err != nil {
			return err
		}
		k := &saving{imageSaves: sv, op: op, source: vm}
		defer func() { err = errors.Join(err, k.close(context.WithoutCancel(ctx))) }()
		source := "save " + vm.Name + " of " + base.Name + " (" + base.Digest[:12] + ")"
		img, err := sv.images.SaveImage(ctx, op, i.Name, source, base, k.open)
		op.SetResult(img.Digest)
		return err
	}), nil
}

// saving is an image of a VM being made.
type saving struct {
	*imageSaves
	op     *operation.Operation
	source api.VM
	// fork is what is read. It has no record: what a dead daemon leaves of it the next one sweeps.
	fork     api.VM
	dir      string // of its memory
	point    point
	release  func()
	link     network.Link
	instance hypervisor.Instance
	agent    *guest.Client
}

// open makes the fork, and begins to read its root.
func (k *saving) open(ctx context.Context) (io.ReadCloser, error) {
	if err := k.op.Step(ctx, "fork", k.makeFork); err != nil {
		return nil, err
	}
	return k.agent.GetImage(ctx)
}

func (k *saving) makeFork(ctx context.Context) (err error) {
	if k.dir, err = k.points.tempDir("save-*"); err != nil {
		return err
	}
	if err := k.locks.with(ctx, k.source.ID, func() error { return k.freeze(ctx) }); err != nil {
		return err
	}
	k.fork = api.VM{ID: k.newID(), Spec: k.point.Spec}
	k.fork.Name = "save-" + k.fork.ID
	r := &k.fork.Runtime
	r.ImageDigest, r.KernelDigest, r.UID = k.point.ImageDigest, k.point.KernelDigest, k.uid
	k.specs.derive(&k.fork)
	k.point.lieOn(&k.fork, k.paths)
	if err := k.machines.makeDirs(k.fork); err != nil {
		return err
	}
	if err := k.points.makeTops(ctx, k.fork, k.point); err != nil {
		return err
	}
	return k.thaw(ctx)
}

// freeze makes the point; called with the source's lock held.
func (k *saving) freeze(ctx context.Context) (err error) {
	if k.source, err = k.store.VM(ctx, k.source.ID); err != nil {
		return err
	}
	l, err := k.points.forkable(k.source)
	if err != nil {
		return err
	}
	f, err := k.points.plan(ctx, k.source, l, k.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close(ctx)) }()
	k.release = k.layers.Hold(f.point.RootLayerID, f.point.WorkLayerID)
	if err := f.begin(); err != nil {
		return err
	}
	if err := f.moveOn(ctx); err != nil {
		return err
	}
	if k.point, err = f.freeze(ctx, true); err != nil {
		return err
	}
	f.stepClock(ctx, k.op)
	return nil
}

// thaw starts the fork. Its network device leads nowhere: the cable is out, and the tap is in no bridge.
func (k *saving) thaw(ctx context.Context) error {
	m, err := k.machines.of(ctx, k.fork)
	if err != nil {
		return err
	}
	if m.NIC != nil {
		if k.link, err = k.network.AttachAnonymous(ctx, guestOf(k.fork)); err != nil {
			return err
		}
		m.NIC.Tap, m.NIC.TapName, m.NIC.Socket = k.link.Tap, k.link.TapName, k.link.Socket
	}
	k.instance, err = k.machines.backend(k.fork).Hypervisor.Thaw(ctx, m, k.point.frozen(k.paths, k.dir), func(hypervisor.Handles) error { return nil })
	if err != nil {
		return err
	}
	go func() { // the contract: events are read until the VMM is gone
		for range k.instance.Events() {
		}
	}()
	k.agent = guest.New(k.instance.DialGuest)
	ctx, cancel := context.WithTimeoutCause(ctx, k.readyTimeout, errNeverReady)
	defer cancel()
	_, err = k.agent.Health(ctx)
	return err
}

// close leaves nothing of the fork.
func (k *saving) close(ctx context.Context) error {
	var errs []error
	if k.instance != nil {
		errs = append(errs, k.instance.Kill(ctx))
	}
	errs = append(errs, k.link.Close())
	if k.fork.ID != "" {
		if k.fork.Spec.Net != api.NetNone {
			errs = append(errs, k.network.Detach(ctx, guestOf(k.fork)))
		}
		errs = append(errs, os.RemoveAll(k.paths.VM(k.fork.ID).Dir))
	}
	if k.dir != "" {
		errs = append(errs, os.RemoveAll(k.dir))
	}
	if k.release != nil {
		k.release()
		errs = append(errs, k.layers.Sweep(ctx))
	}
	return errors.Join(errs...)
}
