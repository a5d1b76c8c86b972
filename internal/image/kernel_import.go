package image

import (
	"context"
	"errors"
	"path/filepath"

	"banger/api"
	"banger/internal/operation"
)

// ImportKernel keeps a kernel of the user's own. It adds steps to op. The paths are read as ImportImage does.
func (s *Service) ImportKernel(ctx context.Context, op *operation.Operation, i api.KernelImport) (api.Kernel, error) {
	k := api.Kernel{Name: i.Name, Source: "import " + filepath.Base(i.Path)}
	if err := api.ValidateObjectName(i.Name); err != nil {
		return k, err
	}
	f, err := openSource(i.Path)
	if err != nil {
		return k, err
	}
	defer f.Close()
	if k.Version, err = kernelVersion(f); err != nil {
		return k, err
	}
	if i.ModulesDir != "" {
		d, err := openSource(i.ModulesDir)
		if err != nil {
			return k, err
		}
		info, err := d.Stat()
		if err := errors.Join(err, d.Close()); err != nil {
			return k, err
		}
		if !info.IsDir() {
			return k, api.Errorf(api.CodeInvalid, "%s is no directory", i.ModulesDir)
		}
		if base := filepath.Base(filepath.Clean(i.ModulesDir)); k.Version == "" {
			k.Version = base
		} else if base != k.Version {
			return k, api.Errorf(api.CodeInvalid, "the kernel is %s, but the modules are for %s", k.Version, base)
		}
	}
	if !versionName.MatchString(k.Version) {
		return k, api.Errorf(api.CodeInvalid, "cannot tell the version of %s", i.Path)
	}
	unlock, err := s.locks.Lock(ctx, "kernel "+i.Name)
	if err != nil {
		return k, err
	}
	defer unlock()
	kernels, err := s.Store.Kernels(ctx)
	if err != nil {
		return k, err
	}
	for _, other := range kernels {
		if other.Name == i.Name {
			return k, api.Errorf(api.CodeExists, "a kernel named %q exists already", i.Name).WithHint("banger kernel delete %s", i.Name)
		}
	}
	work, remove, err := s.tempDir("kernel")
	if err != nil {
		return k, err
	}
	defer remove()
	return s.makeKernel(ctx, op, k, f, i.ModulesDir, work)
}
