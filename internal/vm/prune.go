package vm

import (
	"context"
	"errors"

	"banger/api"
)

// Prune removes every stopped VM. In a dry run it only says which.
func (s *Service) Prune(ctx context.Context, dryRun bool) (api.PruneResult, error) {
	out := api.PruneResult{VMs: []string{}, Images: []string{}, Kernels: []string{}}
	vms, err := s.List(ctx, []string{"state=stopped"})
	if err != nil {
		return out, err
	}
	var errs []error
	for _, vm := range vms {
		bytes := used(vm.Runtime.SystemOverlay) + used(vm.Runtime.WorkDiskPath) + used(vm.Runtime.LogPath)
		if !dryRun {
			if err := s.pruneOne(ctx, vm.ID); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		out.VMs = append(out.VMs, vm.Name)
		out.ReclaimedBytes += bytes
	}
	return out, errors.Join(errs...)
}

// pruneOne removes a VM if it is still stopped.
func (s *Service) pruneOne(ctx context.Context, id string) error {
	vm, err := s.Store.VM(ctx, id)
	if err != nil || vm.State != api.StateStopped {
		return err
	}
	return s.remove(ctx, id)
}
