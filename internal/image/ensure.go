package image

import (
	"context"

	"banger/api"
	"banger/internal/operation"
)

// builtin is an object that is built when it is missing, with what a user is told before.
type builtin struct{ mib, seconds int }

func builtinImages() map[string]builtin {
	return map[string]builtin{nameDebian: {350, 60}, nameMinimal: {4, 1}}
}

func builtinKernels() map[string]builtin { return map[string]builtin{nameDebian: {110, 10}} }

// CanBuildImage reports whether EnsureImage would build a missing image of this name.
func (s *Service) CanBuildImage(ref string) bool { _, ok := builtinImages()[ref]; return ok }

// CanBuildKernel is the same for kernels.
func (s *Service) CanBuildKernel(ref string) bool { _, ok := builtinKernels()[ref]; return ok }

// EnsureImage finds an image, and builds it if it is one of the built-in names and missing. The
// second of two callers waits for the first, and looks again. It adds steps to op.
func (s *Service) EnsureImage(ctx context.Context, op *operation.Operation, ref string) (api.Image, error) {
	i, err := s.Image(ctx, ref)
	b, ok := builtinImages()[ref]
	if api.CodeOf(err) != api.CodeNotFound || !ok {
		return i, err
	}
	unlock, err := s.locks.Lock(ctx, "image "+ref)
	if err != nil {
		return i, err
	}
	defer unlock()
	if i, err := s.Image(ctx, ref); api.CodeOf(err) != api.CodeNotFound {
		return i, err
	}
	op.Warn("%s", s.announce("image "+ref, s.Paths.Images(), b.mib, b.seconds))
	return s.buildImage(ctx, op, api.ImageBuild{Recipe: ref, Name: ref})
}

// EnsureKernel is EnsureImage for kernels.
func (s *Service) EnsureKernel(ctx context.Context, op *operation.Operation, ref string) (api.Kernel, error) {
	k, err := s.Kernel(ctx, ref)
	b, ok := builtinKernels()[ref]
	if api.CodeOf(err) != api.CodeNotFound || !ok {
		return k, err
	}
	unlock, err := s.locks.Lock(ctx, "kernel "+ref)
	if err != nil {
		return k, err
	}
	defer unlock()
	if k, err := s.Kernel(ctx, ref); api.CodeOf(err) != api.CodeNotFound {
		return k, err
	}
	op.Warn("%s", s.announce("kernel "+ref, s.Paths.Kernels(), b.mib, b.seconds))
	return s.buildKernel(ctx, op, ref)
}
