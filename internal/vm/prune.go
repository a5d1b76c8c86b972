package vm

import (
	"context"
	"errors"

	"banger/api"
	"banger/internal/image"
	"banger/internal/store"
	"banger/internal/template"
)

// Objects removes what VMs stand on, images, kernels and templates, where none does; and builds templates ahead.
type Objects struct {
	store        *store.Store
	records      *Records
	specs        *specs
	templateWant func(ctx context.Context, vm api.VM) (template.Want, error)
	// removeIf removes a VM unless may refuses it.
	removeIf  func(ctx context.Context, id string, may func(api.VM) error) error
	pool      *Pool
	images    *image.Service
	templates *template.Service
}

// Prune removes every stopped VM that has no snapshots, and the images and kernels that no name stands for any more and no VM uses. In a dry
// run it only says which VMs.
func (o *Objects) Prune(ctx context.Context, dryRun bool) (api.PruneResult, error) {
	out := api.PruneResult{VMs: []string{}, Images: []string{}, Kernels: []string{}, Kept: []string{}}
	vms, err := o.records.List(ctx, []string{"state=stopped"})
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
			if err := o.pruneOne(ctx, vm.ID); err != nil {
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
	p, err := o.images.Prune(ctx, false, o.ImageInUse(ctx), o.KernelInUse(ctx))
	out.Images, out.Kernels = append(out.Images, p.Images...), append(out.Kernels, p.Kernels...)
	out.ReclaimedBytes += p.FreedBytes
	errs = append(errs, err)
	for _, digest := range append(p.Images, p.Kernels...) {
		errs = append(errs, o.templates.DiscardOf(ctx, digest, o.records.TemplateInUse(ctx)))
	}
	return out, errors.Join(errs...)
}

// DeleteImage removes an image that no VM uses, and the templates that were frozen from it.
func (o *Objects) DeleteImage(ctx context.Context, ref string) error {
	img, err := o.images.Image(ctx, ref)
	if err != nil {
		return err
	}
	if err := o.images.DeleteImage(ctx, img.Digest, o.ImageInUse(ctx)); err != nil {
		return err
	}
	return o.templates.DiscardOf(ctx, img.Digest, o.records.TemplateInUse(ctx))
}

// DeleteKernel is DeleteImage for kernels.
func (o *Objects) DeleteKernel(ctx context.Context, ref string) error {
	k, err := o.images.Kernel(ctx, ref)
	if err != nil {
		return err
	}
	if err := o.images.DeleteKernel(ctx, k.Digest, o.KernelInUse(ctx)); err != nil {
		return err
	}
	return o.templates.DiscardOf(ctx, k.Digest, o.records.TemplateInUse(ctx))
}

// ImageInUse and KernelInUse find the VM that stands on a digest.
func (o *Objects) ImageInUse(ctx context.Context) image.InUse {
	return o.inUse(ctx, func(r api.VMRuntime) string { return r.ImageDigest })
}

// KernelInUse is ImageInUse for kernels.
func (o *Objects) KernelInUse(ctx context.Context) image.InUse {
	return o.inUse(ctx, func(r api.VMRuntime) string { return r.KernelDigest })
}

// inUse looks anew each time, since it is asked with the digest locked; where it cannot look, the digest counts as used.
func (o *Objects) inUse(ctx context.Context, digestOf func(api.VMRuntime) string) image.InUse {
	return func(digest string) (string, bool) {
		vms, err := o.store.VMs(ctx)
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
		err = o.pool.drain(ctx, func(vm api.VM) bool { return digestOf(vm.Runtime) == digest })
		return "the pool", err != nil
	}
}

// pruneOne removes a VM if it is still stopped.
func (o *Objects) pruneOne(ctx context.Context, id string) error {
	return o.removeIf(ctx, id, func(vm api.VM) error {
		if vm.State != api.StateStopped || len(vm.Snapshots) > 0 {
			return api.Errorf(api.CodeConflict, "VM %s is in use again", vm.Name)
		}
		return nil
	})
}
