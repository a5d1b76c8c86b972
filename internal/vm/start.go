package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/image"
	"banger/internal/network"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/template"
)

// starts brings VMs up.
type starts struct {
	host     host.Host
	store    *store.Store
	records  *Records
	locks    *vmLocks
	machines *machines
	vmms     *vmms
	bringUp  *bringUp
	stops    *stops
	suspends *suspends
	// completeRestore completes a restore that was cut off, flattenLater makes long chains of layers short, dropUnused removes disks
	// that nobody has used.
	completeRestore func(ctx context.Context, vm api.VM) error
	flattenLater    func(id string, least int)
	dropUnused      func(ctx context.Context, vm api.VM) error
	queue           *queue
	network         *network.Network
	images          *image.Service
	templates       *template.Service
	paths           config.Paths
	log             *slog.Logger
	now             func() time.Time
	memory          func() template.Memory
	// giveUp has the pool give a clone up; false when it has none.
	giveUp func(context.Context) (bool, error)
	// readyTimeout bounds the wait for a guest's agent.
	readyTimeout time.Duration
	turns        turns
}

// start is the list of steps from a record to a running guest, each with its undo.
func (st *starts) start(ctx context.Context, op *operation.Operation, id string, want api.VMStart) error {
	defer st.queue.busy()()
	st.queue.makeWay()
	unlock, err := st.locks.Lock(ctx, id)
	if err != nil {
		return err
	}
	// The lock is held until a failed start has been undone: the first undo pushed runs last.
	unlock = sync.OnceFunc(unlock)
	op.Undo("lock", func(context.Context) error { unlock(); return nil })
	op.SetResult(id)
	kept, err := st.startLocked(ctx, op, id, want)
	if err == nil || kept {
		op.Keep()
		unlock()
	}
	return err
}

// startLocked reports kept when the start failed but its VM is left for a look.
func (st *starts) startLocked(ctx context.Context, op *operation.Operation, id string, want api.VMStart) (kept bool, err error) {
	vm, err := st.store.VM(ctx, id)
	if err != nil {
		return false, err
	}
	switch vm.State {
	case api.StateRunning, api.StatePaused:
		return false, nil
	case api.StateDeleting:
		return false, api.Errorf(api.CodeConflict, "VM %s is being deleted", vm.Name)
	}
	if vm.Runtime.Restoring {
		if err := st.completeRestore(context.WithoutCancel(ctx), vm); err != nil {
			return false, err
		}
	}
	if _, err := st.records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		vm.State, vm.LastError, vm.StopReason = api.StateStarting, nil, ""
		return []api.Event{{Kind: "vm.starting"}}, nil
	}); err != nil {
		return false, err
	}
	b := boot{starts: st, op: op, vm: vm, want: want}
	op.Undo("state", b.failed)
	err = b.run(ctx)
	if err == nil {
		st.queue.started(b.vm)
	}
	return b.kept, err
}

// run is the list of steps, chosen by what there is to start from: a suspended memory, a template for a root
// that nobody has written yet, or a boot.
func (b *boot) run(ctx context.Context) error {
	if err := b.steps(ctx, step{"image", b.image}); err != nil {
		return err
	}
	if b.want.DiscardMemory {
		if err := b.suspends.discardMemory(ctx, b.vm.ID); err != nil {
			return err
		}
	}
	switch {
	case b.vm.State == api.StateSuspended && !b.want.DiscardMemory:
		return b.inTurn(ctx, step{"network", b.prepareLink}, step{"thaw", b.resume}, step{"personalise", b.personalise}, step{"ready", b.ready})
	case b.clonable():
		if err := b.steps(ctx, step{"template", b.template}); err != nil {
			return err
		}
		return b.inTurn(ctx, step{"disks", b.disks}, step{"network", b.beginLink}, step{"thaw", b.clone},
			step{"personalise", b.personalise}, step{"ready", b.ready})
	}
	return b.steps(ctx, step{"disks", b.disks}, step{"network", b.prepareLink}, step{"boot", b.boot}, step{"guest", b.guest},
		step{"personalise", b.personalise}, step{"ready", b.ready})
}

// inTurn is steps for a guest that thaws.
func (b *boot) inTurn(ctx context.Context, list ...step) error {
	done, err := b.turns.take(ctx, b.vm)
	if err != nil {
		b.cause = err
		return err
	}
	defer done()
	return b.steps(ctx, list...)
}

type step struct {
	name string
	run  func(context.Context) error
}

func (b *boot) steps(ctx context.Context, list ...step) error {
	for _, s := range list {
		if err := b.op.Step(ctx, s.name, s.run); err != nil {
			b.cause = err
			return err
		}
	}
	return nil
}

// boot is one start under way. Each method is a step of it.
type boot struct {
	*starts
	op      *operation.Operation
	vm      api.VM // as it was before the start, but for what the steps decide
	want    api.VMStart
	base    api.Template // what a clone is thawed from
	machine hypervisor.Machine
	link    network.Link
	live    *liveVM
	cause   error
	kept    bool
	readyBy time.Time
}

// image makes sure that image, kernel and initramfs are there, and pins them in the record.
func (b *boot) image(ctx context.Context) error {
	r := b.vm.Runtime
	if r.ImageDigest == "" {
		img, err := b.images.EnsureImage(ctx, b.op, b.vm.Spec.Image)
		if err != nil {
			return err
		}
		r.ImageDigest = img.Digest
		b.vm.Spec.RootBytes = max(cmp.Or(b.vm.Spec.RootBytes, defaultRootBytes), img.SizeBytes)
	}
	rootBytes := b.vm.Spec.RootBytes
	if r.KernelDigest == "" {
		k, err := b.images.EnsureKernel(ctx, b.op, b.vm.Spec.Kernel)
		if err != nil {
			return err
		}
		r.KernelDigest = k.Digest
	}
	features, err := b.machines.backend(b.vm).Hypervisor.Features(ctx)
	if err != nil {
		return err
	}
	b.sayEmulated(b.op, features)
	was := b.vm
	b.vm, err = b.records.update(ctx, b.vm.ID, func(vm *api.VM) ([]api.Event, error) {
		vm.Runtime.ImageDigest, vm.Runtime.KernelDigest, vm.Runtime.Accel = r.ImageDigest, r.KernelDigest, features.Accel
		vm.Spec.RootBytes = rootBytes
		return nil, nil
	})
	if err != nil {
		return err
	}
	b.vm.State, b.vm.StopReason = was.State, was.StopReason
	if err := b.admit(ctx, b.vm.Spec.MemoryBytes, 1); err != nil {
		return err
	}
	b.machine, err = b.machines.of(ctx, b.vm)
	return err
}

// disks makes the root and the work disk where they are missing, and grows them to what is asked for.
func (b *boot) disks(ctx context.Context) error {
	if err := b.machines.makeDirs(b.vm); err != nil {
		return err
	}
	if err := b.bringUp.makeHostKey(ctx, b.vm); err != nil {
		return err
	}
	img, err := b.images.Image(ctx, b.vm.Runtime.ImageDigest)
	if err != nil {
		return err
	}
	root := disk.Spec{
		Path: b.vm.Runtime.SystemOverlay, Base: b.images.RootPath(img.Digest), SizeBytes: b.vm.Spec.RootBytes,
		UID: b.vm.Runtime.UID, GID: b.vm.Runtime.UID, Give: b.host.Give,
	}
	work := disk.Spec{
		Path: b.vm.Runtime.WorkDiskPath, SizeBytes: b.vm.Spec.DiskBytes,
		UID: b.vm.Runtime.UID, GID: b.vm.Runtime.UID, Give: b.host.Give,
	}
	if b.base.ID != "" {
		t, format := b.paths.Template(b.base.ID), b.machines.backend(b.vm).Disks.Format()
		root.Base, root.BaseFormat = t.Root(), format
		work.Base, work.BaseFormat = t.Work(), format
		if err := b.lieOn(ctx, !exists(root.Path), !exists(work.Path)); err != nil {
			return err
		}
	}
	return errors.Join(b.ensureDisk(ctx, root, b.vm.Runtime.RootLayerID), b.ensureDisk(ctx, work, b.vm.Runtime.WorkLayerID))
}

func (b *boot) ensureDisk(ctx context.Context, d disk.Spec, layer string) error {
	if _, err := os.Lstat(d.Path); err == nil {
		return b.machines.backend(b.vm).Driver(layer).Grow(ctx, d.Path, d.SizeBytes)
	}
	if layer != "" { // made before the record that names it: it is not for a start to make up another one
		return api.Errorf(api.CodeInternal, "the disk %s of VM %s is gone", d.Path, b.vm.Name)
	}
	return b.machines.backend(b.vm).Disks.Create(ctx, d)
}

// prepareLink prepares the link.
func (b *boot) prepareLink(ctx context.Context) error {
	if err := b.beginLink(ctx); err != nil {
		return err
	}
	return b.link.Pinned(ctx)
}

// beginLink prepares what a VMM needs to be started; its names are on disk before it exists. Before the guest runs,
// link.Pinned must have returned.
func (b *boot) beginLink(ctx context.Context) error {
	g := guestOf(b.vm)
	if g.Kind == api.NetNone {
		return nil
	}
	if err := b.vmms.handles.Set(b.vm.ID, func(h *VMHandles) { h.TapDevice = g.Tap }); err != nil {
		return err
	}
	b.op.Undo("network", func(ctx context.Context) error { return errors.Join(b.link.Close(), b.stops.detachNetwork(ctx, b.vm)) })
	link, err := b.network.Begin(ctx, g, func(p host.Process) error {
		return b.vmms.handles.Set(b.vm.ID, func(h *VMHandles) { h.NetHelper = p })
	})
	if err != nil {
		return err
	}
	b.link = link
	b.machine.NIC = &hypervisor.NIC{Kind: nicKind(g.Kind), MAC: g.MAC, Tap: link.Tap, TapName: link.TapName, Socket: link.Socket}
	return nil
}

// boot starts the VMM.
func (b *boot) boot(ctx context.Context) error {
	if err := b.link.Pinned(ctx); err != nil {
		return err
	}
	instance, err := b.machines.backend(b.vm).Hypervisor.Start(ctx, b.machine, b.recordVMM)
	if err != nil {
		return err
	}
	return b.running(ctx, instance, false)
}

// recordVMM puts the VMM's process and devices on disk before they are used.
func (b *boot) recordVMM(held hypervisor.Handles) error { return b.vmms.record(b.vm.ID, held) }

// running makes a started VMM the VM's.
func (b *boot) running(ctx context.Context, instance hypervisor.Instance, thawed bool) error {
	b.live = b.vmms.add(b.vm.ID, instance)
	b.op.Undo("boot", func(ctx context.Context) error {
		b.vmms.drop(b.live)
		return instance.Kill(ctx)
	})
	now := b.now().UTC()
	_, err := b.records.update(ctx, b.vm.ID, func(vm *api.VM) ([]api.Event, error) {
		vm.StartedAt, vm.StoppedAt, vm.Pending, vm.Runtime.Thawed = &now, nil, []string{}, thawed
		return []api.Event{{Kind: "vm.started"}}, nil
	})
	if b.readyBy.IsZero() {
		b.readyBy = b.now().Add(b.readyTimeout)
	}
	return errors.Join(err, b.link.Close())
}

// guest waits for the agent's first answer.
func (b *boot) guest(ctx context.Context) error {
	return b.bounded(ctx, func(ctx context.Context) error { return b.bringUp.waitAnswer(ctx, b.live) })
}

// personalise comes before anything else in the guest: beside systemd, PID 1 is held until then.
func (b *boot) personalise(ctx context.Context) error {
	return b.bounded(ctx, func(ctx context.Context) error { return b.bringUp.personalise(ctx, b.live) })
}

// ready waits for the agent's word that the guest is up.
func (b *boot) ready(ctx context.Context) error {
	if onLayers(b.vm) {
		b.flattenLater(b.vm.ID, mustShorten)
	}
	return b.bounded(ctx, func(ctx context.Context) error { return b.bringUp.waitReady(ctx, b.live) })
}

// bounded gives up when the guest is not ready in its time. Such a guest is kept for a look.
func (b *boot) bounded(ctx context.Context, fn func(context.Context) error) error {
	wctx, cancel := context.WithDeadlineCause(ctx, b.readyBy, errNeverReady)
	defer cancel()
	err := fn(wctx)
	if err != nil && errors.Is(context.Cause(wctx), errNeverReady) {
		return b.neverReady(ctx, err)
	}
	return err
}

var errNeverReady = errors.New("the guest never became ready")

func (b *boot) neverReady(ctx context.Context, cause error) error {
	tail := consoleTail(b.paths.VM(b.vm.ID))
	failure := api.Errorf(api.CodeNotReady, "the guest of VM %s did not become ready in %s (%w); the end of its console:\n%s", b.vm.Name, b.readyTimeout, cause, tail)
	if b.vm.Spec.AutoRemove {
		return failure
	}
	b.kept = true
	now := b.now().UTC()
	_, err := b.records.update(ctx, b.vm.ID, func(vm *api.VM) ([]api.Event, error) {
		vm.State = api.StateRunning
		vm.LastError = &api.Failure{Code: api.CodeNotReady, Message: fmt.Sprintf("the guest did not become ready in %s", b.readyTimeout), At: now, ConsoleTail: tail}
		return nil, nil
	})
	return errors.Join(failure.WithHint("banger vm logs --console %s", b.vm.Name), err)
}

// failed is the undo of a start: the record says so.
func (b *boot) failed(ctx context.Context) error {
	var failure *api.Failure
	if b.cause != nil && api.CodeOf(b.cause) != api.CodeCancelled && !errors.Is(b.cause, context.Canceled) {
		failure = &api.Failure{Code: api.CodeOf(b.cause), Message: b.cause.Error(), At: b.now().UTC(), ConsoleTail: consoleTail(b.paths.VM(b.vm.ID))}
	}
	vm, err := b.stops.stopped(ctx, b.vm.ID, "start failed", failure)
	if err == nil {
		err = b.dropUnused(ctx, vm)
	}
	if err == nil && exists(b.paths.VM(vm.ID).Frozen()) && b.vm.State == api.StateSuspended {
		err = b.stillSuspended(ctx, failure)
	}
	return err
}
