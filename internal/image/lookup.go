package image

import (
	"context"
	"strings"

	"banger/api"
)

// The names that are built when they are missing.
const (
	nameDebian  = "debian"
	nameMinimal = "minimal"
)

// Images lists all images, by name.
func (s *Service) Images(ctx context.Context) ([]api.Image, error) { return s.Store.Images(ctx) }

// Image finds an image by name, digest, or a prefix of at least 12 digits of a digest. A name
// wins over a prefix. The error has code not_found where there is none.
func (s *Service) Image(ctx context.Context, ref string) (api.Image, error) {
	images, err := s.Store.Images(ctx)
	if err != nil {
		return api.Image{}, err
	}
	i, err := find(images, ref, "image", func(i api.Image) (string, string) { return i.Name, i.Digest })
	if api.CodeOf(err) == api.CodeNotFound && isDigest(ref) {
		// One that a newer build has taken the name from; VMs may still stand on it.
		if old, ok := readRecord[api.Image](s.Paths.Image(ref).Record()); ok {
			return old, nil
		}
	}
	return i, err
}

// Kernels lists all kernels, by name.
func (s *Service) Kernels(ctx context.Context) ([]api.Kernel, error) { return s.Store.Kernels(ctx) }

// Kernel finds a kernel as Image does an image.
func (s *Service) Kernel(ctx context.Context, ref string) (api.Kernel, error) {
	kernels, err := s.Store.Kernels(ctx)
	if err != nil {
		return api.Kernel{}, err
	}
	k, err := find(kernels, ref, "kernel", func(k api.Kernel) (string, string) { return k.Name, k.Digest })
	if api.CodeOf(err) == api.CodeNotFound && isDigest(ref) {
		if old, ok := readRecord[api.Kernel](s.Paths.Kernel(ref).Record()); ok {
			return old, nil
		}
	}
	return k, err
}

// RootPath is the raw ext4 disk of an image, read-only for everybody (0444).
func (s *Service) RootPath(digest string) string { return s.Paths.Image(digest).Root() }

// KernelFiles are what a VMM needs of a kernel.
type KernelFiles struct {
	Vmlinuz     string
	ModulesDisk string // raw ext4, read-only, its root directory holds VERSION/
	Version     string
}

// KernelFiles finds the files of a kernel by its whole digest.
func (s *Service) KernelFiles(digest string) (KernelFiles, error) {
	p := s.Paths.Kernel(digest)
	if isDigest(digest) {
		if k, ok := readRecord[api.Kernel](p.Record()); ok {
			return KernelFiles{Vmlinuz: p.Vmlinuz(), ModulesDisk: p.Modules(), Version: k.Version}, nil
		}
	}
	return KernelFiles{}, api.Errorf(api.CodeNotFound, "no kernel %q", digest).WithHint("banger kernel list")
}

func find[T any](all []T, ref, noun string, key func(T) (name, digest string)) (T, error) {
	var found []T
	digests := map[string]bool{}
	for _, v := range all {
		name, digest := key(v)
		if name == ref {
			return v, nil
		}
		if isDigestPrefix(ref) && strings.HasPrefix(digest, ref) && !digests[digest] {
			digests[digest] = true
			found = append(found, v)
		}
	}
	var none T
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return none, api.Errorf(api.CodeNotFound, "no %s %q", noun, ref).WithHint("banger %s list", noun)
	}
	return none, api.Errorf(api.CodeInvalid, "more than one %s's digest begins with %q", noun, ref).WithHint("banger %s list", noun)
}

func isDigest(s string) bool { return len(s) == 64 && isDigestPrefix(s) }

func isDigestPrefix(s string) bool {
	return len(s) >= 12 && len(s) <= 64 && strings.Trim(s, "0123456789abcdef") == ""
}
