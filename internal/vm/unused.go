package vm

import (
	"context"
	"errors"

	"banger/api"
)

// dropUnused removes the disks of a VM whose first start ended before its guest ran: nobody's data is on them, and
// the next start can thaw a template only where no root is yet. Called with the VM's lock held and nothing running.
func (pt *points) dropUnused(ctx context.Context, vm api.VM) error {
	r := vm.Runtime
	if vm.StartedAt != nil || onLayers(vm) {
		return nil
	}
	disks := pt.machines.backend(vm).Disks
	if err := errors.Join(disks.Delete(ctx, r.SystemOverlay), disks.Delete(ctx, r.WorkDiskPath)); err != nil {
		return err
	}
	_, err := pt.records.update(ctx, vm.ID, func(vm *api.VM) ([]api.Event, error) {
		vm.Runtime.RootTemplateID, vm.Runtime.WorkTemplateID = "", ""
		return nil, nil
	})
	return err
}
