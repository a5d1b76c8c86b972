package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"banger/api"
	"banger/internal/disk"
)

// Pruned is what Prune has taken away.
type Pruned struct {
	Images, Kernels []string // digests
	Initramfs       int
	FreedBytes      int64
}

// Prune removes what no VM uses: images and kernels that no name stands for any more or, with all,
// every unused one; and each initramfs but those of the present agent.
func (s *Service) Prune(ctx context.Context, all bool, imageInUse, kernelInUse InUse) (Pruned, error) {
	var p Pruned
	images, err := s.Images(ctx)
	if err != nil {
		return p, err
	}
	kernels, err := s.Kernels(ctx)
	if err != nil {
		return p, err
	}
	named := map[string]bool{}
	for _, i := range images {
		named[i.Digest] = true
	}
	for _, k := range kernels {
		named[k.Digest] = true
	}
	var errs []error
	p.Images, err = s.pruneDir(ctx, s.Paths.Images(), &p.FreedBytes, func(digest string) bool { return all || !named[digest] },
		func(ctx context.Context, digest string) error { return s.DeleteImage(ctx, digest, imageInUse) })
	errs = append(errs, err)
	p.Kernels, err = s.pruneDir(ctx, s.Paths.Kernels(), &p.FreedBytes, func(digest string) bool { return all || !named[digest] },
		func(ctx context.Context, digest string) error { return s.DeleteKernel(ctx, digest, kernelInUse) })
	errs = append(errs, err, s.pruneInitramfs(ctx, &p))
	return p, errors.Join(errs...)
}

func (s *Service) pruneDir(ctx context.Context, dir string, freed *int64, want func(string) bool, remove func(context.Context, string) error) ([]string, error) {
	gone := []string{}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return gone, nil
	}
	errs := []error{err}
	for _, e := range entries {
		if !isDigest(e.Name()) || !want(e.Name()) {
			continue
		}
		size, err := disk.Used(filepath.Join(dir, e.Name()))
		if err == nil {
			err = remove(ctx, e.Name())
		}
		switch {
		case err == nil:
			gone, *freed = append(gone, e.Name()), *freed+size
		case api.CodeOf(err) != api.CodeConflict: // in use
			errs = append(errs, err)
		}
	}
	return gone, errors.Join(errs...)
}
