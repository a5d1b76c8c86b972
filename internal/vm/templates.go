package vm

import (
	"cmp"
	"context"

	"banger/api"
	"banger/internal/operation"
)

// ListTemplates lists all templates.
func (o *Objects) ListTemplates(ctx context.Context) ([]api.Template, error) {
	return o.templates.List(ctx)
}

// PruneTemplates removes all templates that no VM lies on.
func (o *Objects) PruneTemplates(ctx context.Context) ([]api.Template, error) {
	if err := o.pool.drain(ctx, func(api.VM) bool { return true }); err != nil {
		return nil, err
	}
	return o.templates.Prune(ctx, o.records.TemplateInUse(ctx))
}

// DeleteTemplate removes a template; one that is in use goes with the last VM on it.
func (o *Objects) DeleteTemplate(ctx context.Context, ref string) (api.Template, error) {
	t, err := o.templates.Delete(ctx, ref, o.records.TemplateInUse(ctx))
	if err != nil {
		return t, err
	}
	return t, o.pool.drain(ctx, func(vm api.VM) bool { return vm.Runtime.RootTemplateID == t.ID })
}

// BuildTemplate builds the template that VMs of a spec are thawed from, unless it is there.
func (o *Objects) BuildTemplate(ctx context.Context, op *operation.Operation, spec api.VMSpec) (api.Template, error) {
	spec, err := o.specs.forHost(ctx, o.specs.withDefaults(spec))
	if err != nil {
		return api.Template{}, err
	}
	vm := api.VM{Name: "template", Spec: spec}
	img, err := o.images.EnsureImage(ctx, op, vm.Spec.Image)
	if err != nil {
		return api.Template{}, err
	}
	k, err := o.images.EnsureKernel(ctx, op, vm.Spec.Kernel)
	if err != nil {
		return api.Template{}, err
	}
	vm.Runtime.ImageDigest, vm.Runtime.KernelDigest = img.Digest, k.Digest
	vm.Spec.RootBytes = max(cmp.Or(vm.Spec.RootBytes, defaultRootBytes), img.SizeBytes)
	w, err := o.templateWant(ctx, vm)
	if err != nil {
		return api.Template{}, err
	}
	t, err := o.templates.Ensure(ctx, op, w)
	if err == nil {
		o.pool.wanted(vm)
	}
	return t, err
}
