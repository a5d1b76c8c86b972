package vm

import (
	"context"
	"errors"
	"fmt"
	"os"

	"banger/api"
	"banger/internal/operation"
)

// Delete removes a VM with its disks, logs and pinned keys. A running one is refused unless force is
// set; it is then killed. It works in every state, and a second delete joins the first.
func (s *Service) Delete(ctx context.Context, ref string, force bool) (*operation.Operation, error) {
	vm, err := s.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if vm.State == api.StateRunning && !force {
		return nil, api.Errorf(api.CodeConflict, "VM %s is running", vm.Name).WithHint("banger vm delete --force %s", vm.Name)
	}
	s.Operations.CancelStarts(vm.ID)
	return s.Operations.Start("vm.delete", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		op.SetResult(vm.ID)
		return op.Step(ctx, "delete", func(ctx context.Context) error { return s.remove(ctx, vm.ID) })
	}), nil
}

// remove takes a VM away without a trace. One that is gone already is no error.
func (s *Service) remove(ctx context.Context, id string) error {
	return s.withReserve(func() error { return s.removeOnce(ctx, id) })
}

func (s *Service) removeOnce(ctx context.Context, id string) error {
	unlock, err := s.locks.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	ctx = context.WithoutCancel(ctx) // once begun, it is completed
	vm, err := s.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
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
	if err := s.kill(ctx, id, "deleted"); err != nil {
		return err
	}
	s.uses.forget(id)
	s.forgetMain(id)
	if err := errors.Join(os.RemoveAll(s.Paths.VM(id).Dir), s.KnownHosts.Remove(hostNames(vm)...)); err != nil {
		return fmt.Errorf("cannot remove VM %s: %w", vm.Name, err)
	}
	if err := s.Store.DeleteVM(ctx, id); err != nil {
		return err
	}
	s.changes.Wake()
	if vm.Runtime.RootLayerID+vm.Runtime.WorkLayerID != "" {
		if err := s.Layers.Sweep(ctx); err != nil {
			return err
		}
	}
	return s.Templates.Sweep(ctx, s.TemplateInUse(ctx))
}
