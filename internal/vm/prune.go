package vm

import (
	"context"
	"errors"

	"banger/api"
	"banger/internal/image"
)

// Prune removes every stopped VM that has no snapshots, and the images and kernels that no name stands for any more and no VM uses. In a dry
// run it only says which VMs.
func (s *Service) Prune(ctx context.Context, dryRun bool) (api.PruneResult, error) {
	out := api.PruneResult{VMs: []string{}, Images: []string{}, Kernels: []string{}, Kept: []string{}}
	vms, err := s.Records.List(ctx, []string{"state=stopped"})
	if err != nil {
		return out, err
	}
	var errs []error
	for _, vm := range vms {
		if len(vm.Snapshots) > 0 {
			out.Kept = append(out.Kept, vm.Name)
			continue
		}
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
	if dryRun {
		return out, nil
	}
	p, err := s.Images.Prune(ctx, false, s.ImageInUse(ctx), s.KernelInUse(ctx))
	out.Images, out.Kernels = append(out.Images, p.Images...), append(out.Kernels, p.Kernels...)
	out.ReclaimedBytes += p.FreedBytes
	errs = append(errs, err)
	for _, digest := range append(p.Images, p.Kernels...) {
		errs = append(errs, s.Templates.DiscardOf(ctx, digest, s.Records.TemplateInUse(ctx)))
	}
	return out, errors.Join(errs...)
}

// DeleteImage removes an image that no VM uses, and the templates that were frozen from it.
func (s *Service) DeleteImage(ctx context.Context, ref string) error {
	img, err := s.Images.Image(ctx, ref)
	if err != nil {
		return err
	}
	if err := s.Images.DeleteImage(ctx, img.Digest, s.ImageInUse(ctx)); err != nil {
		return err
	}
	return s.Templates.DiscardOf(ctx, img.Digest, s.Records.TemplateInUse(ctx))
}

// DeleteKernel is DeleteImage for kernels.
func (s *Service) DeleteKernel(ctx context.Context, ref string) error {
	k, err := s.Images.Kernel(ctx, ref)
	if err != nil {
		return err
	}
	if err := s.Images.DeleteKernel(ctx, k.Digest, s.KernelInUse(ctx)); err != nil {
		return err
	}
	return s.Templates.DiscardOf(ctx, k.Digest, s.Records.TemplateInUse(ctx))
}

// ImageInUse and KernelInUse find the VM that stands on a digest.
func (s *Service) ImageInUse(ctx context.Context) image.InUse {
	return s.inUse(ctx, func(r api.VMRuntime) string { return r.ImageDigest })
}

// KernelInUse is ImageInUse for kernels.
func (s *Service) KernelInUse(ctx context.Context) image.InUse {
	return s.inUse(ctx, func(r api.VMRuntime) string { return r.KernelDigest })
}

// inUse looks anew each time, since it is asked with the digest locked; where it cannot look, the digest counts as used.
func (s *Service) inUse(ctx context.Context, digestOf func(api.VMRuntime) string) image.InUse {
	return func(digest string) (string, bool) {
		vms, err := s.Store.VMs(ctx)
		if err != nil {
			return "unknown, since the machines cannot be listed", true
		}
		pooled := false
		for _, vm := range vms {
			switch {
			case digestOf(vm.Runtime) != digest:
			case vm.State != api.StatePooled:
				return vm.Name, true
			default:
				pooled = true
			}
		}
		if !pooled {
			return "", false
		}
		err = s.drainPool(ctx, func(vm api.VM) bool { return digestOf(vm.Runtime) == digest })
		return "the pool", err != nil
	}
}

// pruneOne removes a VM if it is still stopped.
func (s *Service) pruneOne(ctx context.Context, id string) error {
	return s.removeIf(ctx, id, func(vm api.VM) error {
		if vm.State != api.StateStopped || len(vm.Snapshots) > 0 {
			return api.Errorf(api.CodeConflict, "VM %s is in use again", vm.Name)
		}
		return nil
	})
}
