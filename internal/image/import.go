package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/disk/clone"
	"banger/internal/operation"
)

// ImportImage makes an image of a root tarball, a directory or an ext4 file. It adds steps to op.
//
// The path is read with the daemon's rights: callers must be its own user, or root. A symbolic
// link as its last part is refused. Without root, files of a directory that belong to the
// daemon's user belong to root in the image; nobody else's could be made without it.
func (s *Service) ImportImage(ctx context.Context, op *operation.Operation, i api.ImageImport) (api.Image, error) {
	if err := api.ValidateObjectName(i.Name); err != nil {
		return api.Image{}, err
	}
	f, err := openSource(i.Path)
	if err != nil {
		return api.Image{}, err
	}
	defer f.Close()
	unlock, err := s.locks.Lock(ctx, "image "+i.Name)
	if err != nil {
		return api.Image{}, err
	}
	defer unlock()
	if err := s.NameIsFree(ctx, i.Name); err != nil {
		return api.Image{}, err
	}
	img := api.Image{Name: i.Name, Source: "import " + filepath.Base(i.Path)}
	info, err := f.Stat()
	if err != nil {
		return api.Image{}, err
	}
	if info.IsDir() {
		return s.importDir(ctx, op, img, i.Path, info)
	}
	super, err := readSuperblock(f)
	if err == nil {
		return s.importExt4(ctx, op, img, f, info.Size(), super)
	}
	if !errors.Is(err, errNoExt4) {
		return api.Image{}, err
	}
	return s.makeImage(ctx, op, img, 0, func(ctx context.Context, u *unpacker, _ string) error {
		return op.Step(ctx, "unpack", func(ctx context.Context) error {
			return s.unpackTar(ctx, u, f, func(n int64) { op.Progress(n, info.Size()) })
		})
	})
}

// openSource opens a foreign path for reading: never a symbolic link, and never waiting for a pipe.
func openSource(path string) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, api.Errorf(api.CodeInvalid, "%q must be an absolute path: the daemon has another working directory", path)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, api.Errorf(api.CodeInvalid, "%s is a symbolic link: give what it leads to", path)
	case errors.Is(err, unix.ENOENT):
		return nil, api.Errorf(api.CodeNotFound, "there is no %s", path)
	case errors.Is(err, unix.EACCES):
		return nil, api.Errorf(api.CodeDenied, "cannot read %s: %w", path, err)
	case err != nil:
		return nil, fmt.Errorf("cannot open %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	info, err := f.Stat()
	if err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		err = api.Errorf(api.CodeInvalid, "%s is neither a file nor a directory", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// NameIsFree refuses an import or a save under a name in use: a build's name may move to the newer
// build, but these would silently take away something else.
func (s *Service) NameIsFree(ctx context.Context, name string) error {
	images, err := s.Store.Images(ctx)
	if err != nil {
		return err
	}
	for _, i := range images {
		if i.Name == name {
			return api.Errorf(api.CodeExists, "an image named %q exists already", name).WithHint("banger image delete %s", name)
		}
	}
	return nil
}

func (s *Service) importDir(ctx context.Context, op *operation.Operation, img api.Image, path string, seen os.FileInfo) (api.Image, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return img, err
	}
	defer root.Close()
	if info, err := root.Stat("."); err != nil || !os.SameFile(info, seen) {
		return img, errors.Join(api.Errorf(api.CodeInvalid, "%s changed while it was opened", path), err)
	}
	return s.makeImage(ctx, op, img, 0, func(ctx context.Context, u *unpacker, _ string) error {
		if s.UID != 0 {
			st, ok := seen.Sys().(*syscall.Stat_t)
			if !ok {
				return errors.New("no stat(2) on this system")
			}
			u.owner = rootInsteadOf(s.UID, int(st.Gid))
		}
		return op.Step(ctx, "read the directory", func(ctx context.Context) error {
			return unpackDir(ctx, u, root, ".", func(n int64) { op.Progress(n, 0) })
		})
	})
}

func rootInsteadOf(uid, gid int) func(int, int) (int, int) {
	return func(u, g int) (int, int) {
		if u == uid {
			u = 0
		}
		if g == gid {
			g = 0
		}
		return u, g
	}
}

// importExt4 copies a file system as it is. It is never mounted here.
func (s *Service) importExt4(ctx context.Context, op *operation.Operation, img api.Image, f *os.File, size int64, super superblock) (api.Image, error) {
	if super.sizeBytes > size {
		return img, api.Errorf(api.CodeInvalid, "%s is cut off: its file system has %d MiB, the file %d MiB", f.Name(), super.sizeBytes>>20, size>>20)
	}
	work, remove, err := s.tempDir("image")
	if err != nil {
		return img, err
	}
	defer remove()
	object := filepath.Join(work, "object")
	if err := os.Mkdir(object, 0o700); err != nil {
		return img, diskError(err)
	}
	disk := filepath.Join(object, "root.ext4")
	err = op.Step(ctx, "copy", func(ctx context.Context) error {
		to, err := os.OpenFile(disk, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return diskError(err)
		}
		err = clone.Copy(ctx, to, f)
		if err == nil {
			err = to.Truncate((super.sizeBytes + 4095) / 4096 * 4096) // whatever follows is not the file system's
		}
		return diskError(errors.Join(err, to.Close()))
	})
	if err != nil {
		return img, err
	}
	err = op.Step(ctx, "look inside", func(ctx context.Context) error {
		facts, err := s.ext4Facts(ctx, disk)
		img.Init, img.HasSSHD, img.HasGit = facts.init, facts.sshd, facts.git
		return err
	})
	if err != nil {
		return img, err
	}
	return s.sealImage(ctx, op, img, object)
}
