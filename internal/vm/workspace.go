package vm

import (
	"context"
	"slices"

	"banger/api"
)

// RecordWorkspace remembers that a repository was brought into a VM, instead of what was at its place in the
// guest before. It is the caller's word; the repository itself is never looked at here.
func (r *Records) RecordWorkspace(ctx context.Context, ref string, w api.Workspace) (api.VM, error) {
	if err := w.Validate(); err != nil {
		return api.VM{}, err
	}
	vm, err := r.Get(ctx, ref)
	if err != nil {
		return vm, err
	}
	return r.update(ctx, vm.ID, func(vm *api.VM) ([]api.Event, error) {
		vm.Workspaces = slices.DeleteFunc(vm.Workspaces, func(old api.Workspace) bool { return old.GuestPath == w.GuestPath })
		vm.Workspaces = append(vm.Workspaces, w)
		vm.Workspaces = vm.Workspaces[max(0, len(vm.Workspaces)-api.MaxWorkspaces):]
		return nil, nil
	})
}
