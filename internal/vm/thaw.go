package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"banger/api"
	"banger/internal/durable"
	"banger/internal/hypervisor"
)

// clonable reports whether this start can thaw a template: nobody has written the disks yet. The memory of a
// template goes with the disks that it was frozen with, so what has been in use can only be booted.
func (b *boot) clonable() bool {
	return !b.want.Cold && !exists(b.vm.Runtime.SystemOverlay) && !exists(b.vm.Runtime.WorkDiskPath)
}

// template finds or builds the template. Where none can be built the VM is booted, with a warning.
func (b *boot) template(ctx context.Context) error {
	w, err := b.machines.templateWant(ctx, b.vm)
	if err != nil {
		return err
	}
	t, err := b.templates.Ensure(ctx, b.op, w)
	if err != nil && context.Cause(ctx) == nil {
		b.log.Error("no template", "vm", b.vm.ID, "image", b.vm.Spec.Image, "error", err)
		b.op.Warn("no template could be built, so the VM is booted: %v", err)
		return nil
	}
	b.base = t
	return err
}

// lieOn records which template the disks will lie on, before they do.
func (b *boot) lieOn(ctx context.Context, root, work bool) (err error) {
	b.vm, err = b.records.update(ctx, b.vm.ID, func(vm *api.VM) ([]api.Event, error) {
		if root {
			// Already now, for who adopts the VMM must know what its memory lies on.
			vm.Runtime.RootTemplateID, vm.Runtime.Thawed = b.base.ID, true
		}
		if work {
			vm.Runtime.WorkTemplateID = b.base.ID
		}
		return nil, nil
	})
	return err
}

// clone thaws the template. One that does not thaw is discarded, and the VM is booted instead.
func (b *boot) clone(ctx context.Context) error {
	if b.base.ID == "" {
		if err := b.boot(ctx); err != nil {
			return err
		}
		return b.steps(ctx, step{"guest", b.guest})
	}
	f := b.templates.Frozen(b.base)
	f.Stage = b.op.Stage
	var intro *introduction
	intro, f.First = b.bringUp.introduction(ctx, b.vm.ID)
	var network error
	f.BeforeRun = func() error { network = b.link.Pinned(ctx); return network } // made while the VMM starts
	instance, err := b.machines.backend(b.vm).Hypervisor.Thaw(ctx, b.machine, f, b.recordVMM)
	if err == nil {
		err := b.running(ctx, instance, true)
		b.live.introduction = intro
		return err
	}
	if context.Cause(ctx) != nil {
		return err
	}
	if network != nil { // the template is not to blame
		return network
	}
	b.op.Warn("the template did not thaw and is discarded, the VM is booted: %v", err)
	if err := b.bootInstead(ctx, err); err != nil {
		return err
	}
	return b.steps(ctx, step{"guest", b.guest})
}

// bootInstead gives the VM disks of its own again and boots it.
func (b *boot) bootInstead(ctx context.Context, why error) error {
	work := b.vm.Runtime.WorkTemplateID == b.base.ID && b.vm.StartedAt == nil // made by this very start
	disks := b.machines.backend(b.vm).Disks
	errs := []error{disks.Delete(ctx, b.vm.Runtime.SystemOverlay)}
	if work {
		errs = append(errs, disks.Delete(ctx, b.vm.Runtime.WorkDiskPath))
	}
	broken := b.base
	b.base = api.Template{}
	var err error
	b.vm, err = b.records.update(ctx, b.vm.ID, func(vm *api.VM) ([]api.Event, error) {
		vm.Runtime.RootTemplateID, vm.Runtime.Thawed = "", false
		if work {
			vm.Runtime.WorkTemplateID = ""
		}
		return nil, nil
	})
	errs = append(errs, err, b.templates.Discard(ctx, broken, why, b.records.TemplateInUse(ctx)))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := b.disks(ctx); err != nil {
		return err
	}
	if b.vm.Spec.Net == api.NetUser { // its socket took one connection, and that has been used up
		if err := errors.Join(b.stops.detachNetwork(ctx, b.vm), b.prepareLink(ctx)); err != nil {
			return err
		}
	}
	return b.boot(ctx)
}

// resume thaws a suspended VM. What keeps it from being thawed changes nothing: its files stay, and the error
// says both ways out.
func (b *boot) resume(ctx context.Context) error {
	p := b.paths.VM(b.vm.ID)
	stamp, err := b.machines.backend(b.vm).Hypervisor.Stamp(ctx, b.machine)
	if err != nil {
		return err
	}
	frozen, err := readSuspended(p)
	if err != nil {
		return b.cannotResume(err)
	}
	if differ := differences(frozen.Stamp, stamp); differ != "" {
		return b.cannotResume(fmt.Errorf("it was frozen with %s", differ))
	}
	f := hypervisor.Frozen{
		Device: frozenFile(p, hypervisor.FrozenDevice), Pages: frozenFile(p, hypervisor.FrozenPages),
		// Once the guest runs, its disks move away from the frozen memory, which must never be thawed again.
		BeforeRun: func() error {
			if err := os.Rename(p.Frozen(), p.FrozenUsed()); err != nil {
				return err
			}
			b.op.Reached("used")
			return durable.SyncDir(p.Dir) // else a power cut may bring the name back, and not what the guest wrote then
		},
		Stage: b.op.Stage,
	}
	if frozen.TemplateID != "" {
		f.Memory = b.paths.Template(frozen.TemplateID).Memory()
	}
	instance, err := b.machines.backend(b.vm).Hypervisor.Thaw(ctx, b.machine, f, b.recordVMM)
	if api.CodeOf(err) == api.CodeConflict {
		return b.cannotResume(err)
	} else if err != nil {
		return err
	}
	return errors.Join(b.running(ctx, instance, frozen.TemplateID != ""), os.RemoveAll(p.FrozenUsed()))
}

func (b *boot) cannotResume(why error) error {
	return api.Errorf(api.CodeConflict, "the suspended VM %s cannot go on here: %w; bring back what differs, or give its memory up", b.vm.Name, why).
		WithHint("banger vm start --discard-memory %s   # a boot as after a power cut; disks are kept", b.vm.Name)
}

// stillSuspended is the end of a start that changed nothing.
func (b *boot) stillSuspended(ctx context.Context, failure *api.Failure) error {
	_, err := b.records.update(ctx, b.vm.ID, func(vm *api.VM) ([]api.Event, error) {
		vm.State, vm.LastError, vm.StopReason, vm.Runtime.Thawed = api.StateSuspended, failure, cmp.Or(b.vm.StopReason, whySuspended), b.vm.Runtime.Thawed
		return []api.Event{{Kind: "vm.suspended"}}, nil
	})
	return err
}
