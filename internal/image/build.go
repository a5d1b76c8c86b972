package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/operation"
)

// BuildImage makes an image by a recipe. It adds steps to op. A name that is taken moves
// to the new image; the one that had it stays on disk until nothing uses it (see Prune).
func (s *Service) BuildImage(ctx context.Context, op *operation.Operation, b api.ImageBuild) (api.Image, error) {
	if b.Name == "" {
		b.Name = b.Recipe
	}
	if err := validateBuild(b); err != nil {
		return api.Image{}, err
	}
	unlock, err := s.locks.Lock(ctx, "image "+b.Name)
	if err != nil {
		return api.Image{}, err
	}
	defer unlock()
	return s.buildImage(ctx, op, b)
}

// buildImage is called with the name's lock held.
func (s *Service) buildImage(ctx context.Context, op *operation.Operation, b api.ImageBuild) (api.Image, error) {
	var fill func(context.Context, *unpacker, string) error
	switch b.Recipe {
	case "minimal":
		fill = func(ctx context.Context, u *unpacker, work string) error { return s.minimal(ctx, op, u, work) }
	case "debian":
		fill = func(ctx context.Context, u *unpacker, work string) error { return s.debian(ctx, op, u, work, b) }
	}
	return s.makeImage(ctx, op, api.Image{Name: b.Name, Source: "build " + b.Recipe}, b.SizeBytes, fill)
}

func validateBuild(b api.ImageBuild) error {
	if err := api.ValidateObjectName(b.Name); err != nil {
		return err
	}
	switch {
	case b.Recipe != "minimal" && b.Recipe != "debian":
		return api.Errorf(api.CodeInvalid, "no recipe %q for an image: there are debian and minimal", b.Recipe)
	case b.Recipe == "minimal" && (len(b.Packages) > 0 || b.Mirror != "" || b.Run != ""):
		return api.Errorf(api.CodeInvalid, "the recipe minimal takes no packages, mirror or script").WithHint("banger image build debian")
	case b.SizeBytes < 0 || b.SizeBytes > maxDisk || b.SizeBytes%4096 != 0:
		return api.Errorf(api.CodeInvalid, "a root disk of %d bytes: use a multiple of 4 KiB up to 4 TiB", b.SizeBytes)
	case b.Mirror != "" && !strings.HasPrefix(b.Mirror, "http://") && !strings.HasPrefix(b.Mirror, "https://") && !strings.HasPrefix(b.Mirror, "file:///"),
		strings.ContainsAny(b.Mirror, " \t\r\n\x00"):
		return api.Errorf(api.CodeInvalid, "%q is no mirror: give the URL of a Debian archive", b.Mirror)
	}
	for _, p := range b.Packages {
		if !packageName.MatchString(p) {
			return api.Errorf(api.CodeInvalid, "%q is no name of a Debian package", p)
		}
	}
	return nil
}

// maxDisk is what a VM can have.
const maxDisk = api.MaxDiskBytes

// makeImage is what all root disks but imported ext4 files go through.
func (s *Service) makeImage(ctx context.Context, op *operation.Operation, img api.Image, size int64,
	fill func(ctx context.Context, u *unpacker, work string) error) (_ api.Image, err error) {
	work, remove, err := s.tempDir("image")
	if err != nil {
		return img, err
	}
	defer remove()
	free, err := disk.Free(work)
	if err != nil {
		return img, err
	}
	tree, object := filepath.Join(work, "tree"), filepath.Join(work, "object")
	u, err := newUnpacker(tree, free)
	if err != nil {
		return img, diskError(err)
	}
	defer func() { err = errors.Join(err, u.close()) }()
	if err := fill(ctx, u, work); err != nil {
		return img, err
	}
	f := u.facts()
	if !f.program {
		return img, api.Errorf(api.CodeInvalid, "there is no program in it that a guest could run: not a root file system")
	}
	if err := os.Mkdir(object, 0o700); err != nil {
		return img, diskError(err)
	}
	if img.Init == "" { // a saved one is run as its base was
		img.Init = f.init
	}
	img.HasSSHD, img.HasGit = f.sshd, f.git
	err = op.Step(ctx, "make the disk", func(ctx context.Context) error {
		return s.makeDisk(ctx, u, tree, filepath.Join(object, "root.ext4"), diskSpec{sizeBytes: size, label: "banger-root"})
	})
	if err != nil {
		return img, err
	}
	for what, n := range u.dropped {
		op.Warn("left out: %s (%d)", what, n)
	}
	return s.sealImage(ctx, op, img, object)
}

// sealImage names the disk in object by its digest, puts it in its place and records it.
func (s *Service) sealImage(ctx context.Context, op *operation.Operation, img api.Image, object string) (api.Image, error) {
	err := op.Step(ctx, "seal", func(ctx context.Context) error {
		root := filepath.Join(object, "root.ext4")
		info, err := os.Stat(root)
		if err != nil {
			return err
		}
		img.SizeBytes = info.Size()
		if img.Digest, err = digestFile(ctx, root, func(n int64) { op.Progress(n, info.Size()) }); err != nil {
			return err
		}
		if img.UsedBytes, err = disk.Used(root); err != nil {
			return err
		}
		img.CreatedAt = s.Now().UTC()
		unlock, err := s.locks.Lock(ctx, "digest "+img.Digest)
		if err != nil {
			return err
		}
		defer unlock()
		to := s.Paths.Image(img.Digest)
		if err := seal(object, to.Dir, to.Record(), img); err != nil {
			return err
		}
		return s.Store.PutImage(ctx, img)
	})
	if err != nil {
		return api.Image{}, err
	}
	op.SetResult(img.Digest)
	return img, nil
}

// env is the environment of a program that we run: host.Command's default and what is given.
func (s *Service) env(more ...string) []string {
	return slices.Concat([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + s.Paths.State, "LANG=C.UTF-8",
	}, more)
}

// runError gives a program's failure for want of space its code.
func (s *Service) runError(err error) error {
	if free, e := disk.Free(s.Paths.Temp()); e == nil && free < 1<<20 {
		return api.Errorf(api.CodeExhausted, "the disk of %s is full: %w", s.Paths.State, err).WithHint("banger prune")
	}
	return err
}

// announce is what a user should know before something missing is built on the way.
func (s *Service) announce(what, dir string, size, seconds int) string {
	return fmt.Sprintf("building %s: about %d MiB in %s, about %d s", what, size, dir, seconds)
}
