package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"banger/api"
	"banger/internal/operation"
)

// Delete removes a VM with its disks, snapshots, logs and pinned keys. One that runs or has snapshots is refused unless force
// is set; it is then killed. It works in every state, and a second delete joins the first.
func (s *Service) Delete(ctx context.Context, ref string, force bool) (*operation.Operation, error) {
	vm, err := s.Records.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if vm.State == api.StateRunning && !force {
		return nil, api.Errorf(api.CodeConflict, "VM %s is running%s", vm.Name, andSnapshots(vm)).WithHint("banger vm delete --force %s", vm.Name)
	}
	if len(vm.Snapshots) > 0 && !force {
		return nil, hasSnapshots(vm)
	}
	s.Operations.CancelStarts(vm.ID)
	return s.beginDelete(vm.ID, func(vm api.VM) error {
		if len(vm.Snapshots) > 0 && !force { // made just now
			return hasSnapshots(vm)
		}
		return nil
	}), nil
}

// beginDelete joins a delete that is under way.
func (s *Service) beginDelete(id string, may func(api.VM) error) *operation.Operation {
	if op, ok := s.Operations.Running("vm.delete", id); ok {
		return op
	}
	return s.Operations.Start("vm.delete", id, func(ctx context.Context, op *operation.Operation) error {
		op.SetResult(id)
		return op.Step(ctx, "delete", func(ctx context.Context) error { return s.removeIf(ctx, id, may) })
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
func (s *Service) remove(ctx context.Context, id string) error {
	return s.removeIf(ctx, id, func(api.VM) error { return nil })
}

// removeIf removes a VM unless may refuses it, which is asked with its lock held.
func (s *Service) removeIf(ctx context.Context, id string, may func(api.VM) error) error {
	return s.withReserve(func() error { return s.removeOnce(ctx, id, may) })
}

func (s *Service) removeOnce(ctx context.Context, id string, may func(api.VM) error) error {
	unlock, err := s.locks.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	ctx = context.WithoutCancel(ctx) // once begun, it is completed
	stopped := []api.Event{}
	vm, err := s.Records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		if err := may(*vm); err != nil && vm.State != api.StateDeleting {
			return nil, err
		}
		switch vm.State {
		case api.StateStopped, api.StateSuspended, api.StateDeleting, api.StatePooled:
		default:
			stopped = append(stopped, api.Event{Kind: "vm.stopped", Data: map[string]string{"reason": "deleted"}})
		}
		if now := s.Now().UTC(); vm.Main != nil && vm.Main.EndedAt == nil {
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
	go func() { forgotten <- s.KnownHosts.Remove(hostNames(vm)...) }()
	if err := s.letGo(ctx, vm); err != nil {
		return errors.Join(err, <-forgotten)
	}
	s.uses.forget(id)
	if err := s.forgetSnapshots(ctx, id); err != nil {
		return errors.Join(fmt.Errorf("cannot remove the snapshots of VM %s: %w", vm.Name, err), <-forgotten)
	}
	if err := errors.Join(os.RemoveAll(s.Paths.VM(id).Dir), <-forgotten); err != nil {
		return fmt.Errorf("cannot remove VM %s: %w", vm.Name, err)
	}
	operation.Stage(ctx, "remove files")
	if err := s.Store.DeleteVM(ctx, id, stopped...); err != nil {
		return err
	}
	s.Records.Wake()
	operation.Stage(ctx, "remove record")
	if onLayers(vm) || len(vm.Snapshots) > 0 {
		if err := s.Layers.Sweep(ctx); err != nil {
			return err
		}
	}
	return s.Templates.Sweep(ctx, s.Records.TemplateInUse(ctx))
}
