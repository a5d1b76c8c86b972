package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/guest/ssh"
	"banger/internal/layer"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/template"
)

// removals takes VMs away without a trace.
type removals struct {
	store           *store.Store
	records         *Records
	locks           *vmLocks
	operations      *operation.Registry
	stops           *stops
	forgetSnapshots func(ctx context.Context, vmID string) error
	uses            *uses
	spare           *spareRoom
	layers          *layer.Service
	templates       *template.Service
	knownHosts      ssh.KnownHosts
	paths           config.Paths
	now             func() time.Time
}

// Delete removes a VM with its disks, snapshots, logs and pinned keys. One that runs or has snapshots is refused unless force
// is set; it is then killed. It works in every state, and a second delete joins the first.
func (d *removals) Delete(ctx context.Context, ref string, force bool) (*operation.Operation, error) {
	vm, err := d.records.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if vm.State == api.StateRunning && !force {
		return nil, api.Errorf(api.CodeConflict, "VM %s is running%s", vm.Name, andSnapshots(vm)).WithHint("banger vm delete --force %s", vm.Name)
	}
	if len(vm.Snapshots) > 0 && !force {
		return nil, hasSnapshots(vm)
	}
	d.operations.CancelStarts(vm.ID)
	return d.begin(vm.ID, func(vm api.VM) error {
		if len(vm.Snapshots) > 0 && !force { // made just now
			return hasSnapshots(vm)
		}
		return nil
	}), nil
}

// begin joins a delete that is under way.
func (d *removals) begin(id string, may func(api.VM) error) *operation.Operation {
	if op, ok := d.operations.Running("vm.delete", id); ok {
		return op
	}
	return d.operations.Start("vm.delete", id, func(ctx context.Context, op *operation.Operation) error {
		op.SetResult(id)
		return op.Step(ctx, "delete", func(ctx context.Context) error { return d.removeIf(ctx, id, may) })
	})
}

func hasSnapshots(vm api.VM) error {
	return api.Errorf(api.CodeConflict, "VM %s has snapshots, which would be lost: %s", vm.Name, strings.Join(vm.Snapshots, ", ")).
		WithHint("banger vm delete --force %s", vm.Name)
}

func andSnapshots(vm api.VM) string {
	if len(vm.Snapshots) == 0 {
		return ""
	}
	return ", and has snapshots, which would be lost too: " + strings.Join(vm.Snapshots, ", ")
}

// remove takes a VM away without a trace. One that is gone already is no error.
func (d *removals) remove(ctx context.Context, id string) error {
	return d.removeIf(ctx, id, func(api.VM) error { return nil })
}

// removeIf removes a VM unless may refuses it, which is asked with its lock held.
func (d *removals) removeIf(ctx context.Context, id string, may func(api.VM) error) error {
	return d.spare.with(func() error { return d.removeOnce(ctx, id, may) })
}

func (d *removals) removeOnce(ctx context.Context, id string, may func(api.VM) error) error {
	unlock, err := d.locks.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	ctx = context.WithoutCancel(ctx) // once begun, it is completed
	stopped := []api.Event{}
	vm, err := d.records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		if err := may(*vm); err != nil && vm.State != api.StateDeleting {
			return nil, err
		}
		switch vm.State {
		case api.StateStopped, api.StateSuspended, api.StateDeleting, api.StatePooled:
		default:
			stopped = append(stopped, api.Event{Kind: "vm.stopped", Data: map[string]string{"reason": "deleted"}})
		}
		if now := d.now().UTC(); vm.Main != nil && vm.Main.EndedAt == nil {
			vm.Main.EndedAt, vm.Main.Error = &now, "the VM stopped: deleted"
		}
		if vm.State != api.StatePooled { // that is removed by the next start in any case
			vm.State = api.StateDeleting // from here on the next start completes it if we are cut off
		}
		return nil, nil
	})
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	} else if err != nil {
		return err
	}
	operation.Stage(ctx, "mark")
	forgotten := make(chan error, 1)
	go func() { forgotten <- d.knownHosts.Remove(hostNames(vm)...) }()
	if err := d.stops.letGo(ctx, vm); err != nil {
		return errors.Join(err, <-forgotten)
	}
	d.uses.forget(id)
	if err := d.forgetSnapshots(ctx, id); err != nil {
		return errors.Join(fmt.Errorf("cannot remove the snapshots of VM %s: %w", vm.Name, err), <-forgotten)
	}
	if err := errors.Join(os.RemoveAll(d.paths.VM(id).Dir), <-forgotten); err != nil {
		return fmt.Errorf("cannot remove VM %s: %w", vm.Name, err)
	}
	operation.Stage(ctx, "remove files")
	if err := d.store.DeleteVM(ctx, id, stopped...); err != nil {
		return err
	}
	d.records.Wake()
	operation.Stage(ctx, "remove record")
	if onLayers(vm) || len(vm.Snapshots) > 0 {
		if err := d.layers.Sweep(ctx); err != nil {
			return err
		}
	}
	return d.templates.Sweep(ctx, d.records.TemplateInUse(ctx))
}
