package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/operation"
)

// BuildKernel makes a kernel by a recipe. It adds steps to op. A name that is taken moves to the new kernel.
func (s *Service) BuildKernel(ctx context.Context, op *operation.Operation, b api.KernelBuild) (api.Kernel, error) {
	if b.Recipe != "debian" {
		return api.Kernel{}, api.Errorf(api.CodeInvalid, "no recipe %q for a kernel: there is debian", b.Recipe)
	}
	if b.Name == "" {
		b.Name = b.Recipe
	}
	if err := api.ValidateObjectName(b.Name); err != nil {
		return api.Kernel{}, err
	}
	unlock, err := s.locks.Lock(ctx, "kernel "+b.Name)
	if err != nil {
		return api.Kernel{}, err
	}
	defer unlock()
	return s.buildKernel(ctx, op, b.Name)
}

// buildKernel is called with the name's lock held.
func (s *Service) buildKernel(ctx context.Context, op *operation.Operation, name string) (api.Kernel, error) {
	work, remove, err := s.tempDir("kernel")
	if err != nil {
		return api.Kernel{}, err
	}
	defer remove()
	k := api.Kernel{Name: name, Source: "build debian"}
	fetched := filepath.Join(work, "package")
	err = op.Step(ctx, "fetch the kernel package", func(ctx context.Context) error {
		return s.fetchResolved(ctx, fetched, func(a apt) ([]string, error) { return a.kernelPackage(ctx) })
	})
	if err != nil {
		return k, err
	}
	root := filepath.Join(fetched, "root")
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return k, errors.Join(fmt.Errorf("the kernel package holds %d kernels", len(images)), err)
	}
	k.Version = strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	image, err := os.Open(images[0])
	if err != nil {
		return k, err
	}
	defer image.Close()
	modules := filepath.Join(root, "lib", "modules", k.Version)
	if _, err := os.Stat(modules); err != nil { // where packages follow the merged /usr
		modules = filepath.Join(root, "usr", "lib", "modules", k.Version)
	}
	return s.makeKernel(ctx, op, k, image, modules, work)
}

var kernelDependency = regexp.MustCompile(`(?m)^\s*Depends: (linux-image-[a-z0-9.+-]+)$`)

// kernelPackage is what Debian's package for "the newest cloud kernel" depends on at present.
func (a apt) kernelPackage(ctx context.Context) ([]string, error) {
	meta := "linux-image-cloud-" + runtime.GOARCH
	out, err := a.run(ctx, "apt-cache", "", "depends", "--", meta)
	if err != nil {
		return nil, err
	}
	m := kernelDependency.FindStringSubmatch(out)
	if m == nil {
		return nil, api.Errorf(api.CodeUnreachable, "apt does not know which kernel %s stands for", meta).WithHint("sudo apt-get update")
	}
	return []string{m[1]}, nil
}

// makeKernel seals a kernel with its modules; modules may be empty for one that has none.
func (s *Service) makeKernel(ctx context.Context, op *operation.Operation, k api.Kernel, image *os.File, modules, work string) (api.Kernel, error) {
	object := filepath.Join(work, "object")
	if err := os.Mkdir(object, 0o700); err != nil {
		return k, diskError(err)
	}
	vmlinuz, modulesDisk := filepath.Join(object, "vmlinuz"), filepath.Join(object, "modules.ext4")
	if err := copyFile(vmlinuz, image); err != nil {
		return k, err
	}
	err := op.Step(ctx, "make the modules' disk", func(ctx context.Context) error {
		return s.makeModules(ctx, k.Version, modules, work, object, modulesDisk)
	})
	if err != nil {
		return k, err
	}
	err = op.Step(ctx, "seal", func(ctx context.Context) error {
		h := sha256.New()
		for _, path := range []string{vmlinuz, modulesDisk} {
			d, err := digestFile(ctx, path, nil)
			if err != nil {
				return err
			}
			fmt.Fprintln(h, d)
		}
		k.Digest, k.CreatedAt = hex.EncodeToString(h.Sum(nil)), s.Now().UTC()
		var err error
		if k.UsedBytes, err = disk.Used(object); err != nil {
			return err
		}
		unlock, err := s.locks.Lock(ctx, "digest "+k.Digest)
		if err != nil {
			return err
		}
		defer unlock()
		to := s.Paths.Kernel(k.Digest)
		if err := seal(object, to.Dir, to.Record(), k); err != nil {
			return err
		}
		return s.Store.PutKernel(ctx, k)
	})
	if err != nil {
		return api.Kernel{}, err
	}
	op.SetResult(k.Digest)
	return k, nil
}

func copyFile(path string, from io.Reader) error {
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return diskError(err)
	}
	_, err = io.Copy(to, from)
	return diskError(errors.Join(err, to.Close()))
}
