package vm

import (
	"context"

	"banger/api"
	"banger/internal/operation"
)

// ListTemplates lists all templates.
func (s *Service) ListTemplates(ctx context.Context) ([]api.Template, error) {
	return s.Templates.List(ctx)
}

// PruneTemplates removes all templates that no VM lies on.
func (s *Service) PruneTemplates(ctx context.Context) ([]api.Template, error) {
	if err := s.drainPool(ctx, func(api.VM) bool { return true }); err != nil {
		return nil, err
	}
	return s.Templates.Prune(ctx, s.Records.TemplateInUse(ctx))
}

// DeleteTemplate removes a template; one that is in use goes with the last VM on it.
func (s *Service) DeleteTemplate(ctx context.Context, ref string) (api.Template, error) {
	t, err := s.Templates.Delete(ctx, ref, s.Records.TemplateInUse(ctx))
	if err != nil {
		return t, err
	}
	return t, s.drainPool(ctx, func(vm api.VM) bool { return vm.Runtime.RootTemplateID == t.ID })
}

// BuildTemplate builds the template that VMs of a spec are thawed from, unless it is there.
func (s *Service) BuildTemplate(ctx context.Context, op *operation.Operation, spec api.VMSpec) (api.Template, error) {
	spec, err := s.forHost(ctx, s.withDefaults(spec))
	if err != nil {
		return api.Template{}, err
	}
	vm := api.VM{Name: "template", Spec: spec}
	img, err := s.Images.EnsureImage(ctx, op, vm.Spec.Image)
	if err != nil {
		return api.Template{}, err
	}
	k, err := s.Images.EnsureKernel(ctx, op, vm.Spec.Kernel)
	if err != nil {
		return api.Template{}, err
	}
	vm.Runtime.ImageDigest, vm.Runtime.KernelDigest = img.Digest, k.Digest
	vm.Spec.RootBytes = max(or(vm.Spec.RootBytes, defaultRootBytes), img.SizeBytes)
	w, err := s.machines.templateWant(ctx, vm)
	if err != nil {
		return api.Template{}, err
	}
	t, err := s.Templates.Ensure(ctx, op, w)
	if err == nil {
		s.pool.started(vm)
		s.pool.look()
	}
	return t, err
}
