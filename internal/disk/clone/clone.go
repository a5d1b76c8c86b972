// Package clone makes raw disks as copies of their base: shared by reflink where the file
// system can (btrfs, xfs), else a copy of the data without the holes. It may be imported by
// daemon, which chooses the driver, and by package image for Copy.
package clone

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/disk"
)

// Driver is disk.Driver. Without reflinks Create takes as long as copying the base's data, against
// what the contract asks for; whoever configures "clone" there has chosen that.
type Driver struct{}

var _ disk.Driver = Driver{}

// Name is "clone".
func (Driver) Name() string { return "clone" }

// Format is "raw".
func (Driver) Format() string { return "raw" }

// Create makes the disk.
func (Driver) Create(ctx context.Context, s disk.Spec) error {
	return disk.Publish(s, func(f *os.File) error {
		if s.Base != "" {
			base, err := os.Open(s.Base)
			if err != nil {
				return err
			}
			defer base.Close()
			info, err := base.Stat()
			if err != nil {
				return err
			}
			if info.Size() > s.SizeBytes {
				return api.Errorf(api.CodeInvalid, "a disk of %d MiB is smaller than its base of %d MiB", s.SizeBytes>>20, info.Size()>>20)
			}
			if err := Copy(ctx, f, base); err != nil {
				return err
			}
		}
		return f.Truncate(s.SizeBytes)
	})
}

// Grow makes it larger; the new part is a hole.
func (Driver) Grow(_ context.Context, path string, sizeBytes int64) error {
	f, err := disk.Open(path, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	more, err := disk.CheckGrowth(path, info.Size(), sizeBytes)
	if !more || err != nil {
		return err
	}
	return errors.Join(f.Truncate(sizeBytes), f.Sync())
}

// Size is the file's size.
func (Driver) Size(_ context.Context, path string) (int64, error) {
	f, err := disk.Open(path, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Delete removes it.
func (Driver) Delete(_ context.Context, path string) error { return disk.Remove(path) }

// Copy makes to, which must be empty, hold what from does: by reflink, else data only, so that
// holes stay holes. Its size becomes that of from.
func Copy(ctx context.Context, to, from *os.File) error {
	if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
		return nil
	}
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := to.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		begin, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // holes only from here on
			return nil
		}
		end := info.Size()
		if err == nil {
			end, err = unix.Seek(int(from.Fd()), begin, unix.SEEK_HOLE)
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) { // a file system that knows no holes
			begin, end, err = at, info.Size(), nil
		}
		if err != nil {
			return err
		}
		if err := copyRange(ctx, to, from, begin, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// chunk is how much is copied between two looks at the context.
const chunk = 16 << 20

func copyRange(ctx context.Context, to, from *os.File, begin, end int64) error {
	inKernel := true
	var buf []byte
	for begin < end {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		want := min(end-begin, chunk)
		if inKernel {
			in, out := begin, begin
			n, err := unix.CopyFileRange(int(from.Fd()), &in, int(to.Fd()), &out, int(want), 0)
			switch {
			case n > 0:
				begin += int64(n)
				continue
			case errors.Is(err, unix.EINTR):
				continue
			case err != nil && !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP):
				return err
			}
			inKernel = false // another file system, or one that cannot
		}
		if buf == nil {
			buf = make([]byte, 1<<20)
		}
		n, err := from.ReadAt(buf[:min(want, int64(len(buf)))], begin)
		if n == 0 {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // it became shorter while we read
			}
			return err
		}
		if _, err := to.WriteAt(buf[:n], begin); err != nil {
			return err
		}
		begin += int64(n)
	}
	return nil
}
