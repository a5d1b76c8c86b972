package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"banger/api"
)

// InUse names a VM that stands on a digest.
type InUse func(digest string) (vm string, inUse bool)

// DeleteImage removes an image and every name it has. One that a VM stands on is refused with conflict.
func (s *Service) DeleteImage(ctx context.Context, ref string, inUse InUse) error {
	i, err := s.Image(ctx, ref)
	if err != nil {
		return err
	}
	return s.delete(ctx, "image "+i.Name, i.Digest, s.Paths.Image(i.Digest).Dir, inUse, s.Store.DeleteImage)
}

// DeleteKernel is DeleteImage for kernels.
func (s *Service) DeleteKernel(ctx context.Context, ref string, inUse InUse) error {
	k, err := s.Kernel(ctx, ref)
	if err != nil {
		return err
	}
	return s.delete(ctx, "kernel "+k.Name, k.Digest, s.Paths.Kernel(k.Digest).Dir, inUse, s.Store.DeleteKernel)
}

// delete takes the files away first, in one rename: a crash after it leaves a row without files,
// which Reconcile removes. The other way round a crash would bring the object back.
func (s *Service) delete(ctx context.Context, what, digest, dir string, inUse InUse, row func(context.Context, string) error) error {
	unlock, err := s.locks.Lock(ctx, "digest "+digest)
	if err != nil {
		return err
	}
	defer unlock()
	if vm, used := inUse(digest); used {
		return api.Errorf(api.CodeConflict, "%s is in use by VM %s", what, vm).WithHint("banger vm delete %s", vm)
	}
	away, remove, err := s.tempDir("deleted")
	if err != nil {
		return err
	}
	defer remove()
	if err := os.Rename(dir, filepath.Join(away, "object")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return row(ctx, digest)
}
