package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
)

// mountWork brings up the work disk: formatted if blank, checked if need be, grown to
// its disk, mounted with its root and home at /root and /home. One that is mounted already stays so.
func (s *system) mountWork(ctx context.Context, dev string) error {
	if !mounted(workDir) {
		if err := s.openWork(ctx, dev); err != nil {
			return err
		}
	}
	if _, err := growExt4(dev, workDir); err != nil {
		return err
	}
	for _, dir := range []string{"root", "home"} {
		if err := bindWork(dir); err != nil {
			return err
		}
	}
	return nil
}

// waitWork waits until the kernel knows of the disk and its size.
func (s *system) waitWork(ctx context.Context, w agentapi.WorkDisk) (dev string, err error) {
	err = retry(ctx, 5*time.Second, func() error {
		if dev, err = s.disk(w.Device); err != nil || w.Bytes <= 0 {
			return err
		}
		size, err := diskSize(dev)
		if err == nil && size < w.Bytes {
			err = fmt.Errorf("%s has %d bytes, not %d", dev, size, w.Bytes)
		}
		return err
	})
	if errors.Is(err, os.ErrNotExist) {
		return "", api.Errorf(api.CodeNotFound, "cannot mount the work disk: %w", err)
	}
	if err != nil {
		return "", fmt.Errorf("cannot mount the work disk: %w", err)
	}
	return dev, nil
}

// openWork mounts the disk. It is mounted before it is looked at, since nearly always it is a clean ext4, and a thawed
// guest pays for each thing that it reads.
func (s *system) openWork(ctx context.Context, dev string) error {
	// A caller who goes away must not leave a disk half formatted or half mended.
	ctx = context.WithoutCancel(ctx)
	if err := dropCache(dev); err != nil {
		return err
	}
	mountErr := mountExt4(dev, workDir)
	what, err := inspect(dev)
	switch {
	case err != nil:
		return fmt.Errorf("cannot mount the work disk: %w", err)
	case mountErr == nil && what != contentDamaged:
		return nil
	case what == contentForeign:
		return api.Errorf(api.CodeConflict, "cannot mount the work disk: it holds something that is not ext4, and is left as it is")
	case what == contentBlank:
		err = s.tools.makeExt4(ctx, dev)
	default:
		if mountErr == nil {
			err = unix.Unmount(workDir, 0)
		}
		err = errors.Join(err, s.tools.checkExt4(ctx, dev))
	}
	if err != nil {
		return errors.Join(mountErr, err)
	}
	return mountExt4(dev, workDir)
}

// bindWork shows the work disk's directory dir at /dir. The first time, what the
// image has there moves in; a copy that was cut off is made anew.
func bindWork(dir string) error {
	have, target := workDir+"/"+dir, "/"+dir
	work, ok1 := deviceOf(workDir)
	there, ok2 := deviceOf(target)
	if ok1 && ok2 && work == there {
		return nil
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("cannot make %s: %w", target, err)
	}
	if _, err := os.Lstat(have); errors.Is(err, os.ErrNotExist) {
		half := workDir + "/.new-" + dir
		if err := os.RemoveAll(half); err != nil {
			return fmt.Errorf("cannot fill the work disk: %w", err)
		}
		if err := copyTree(target, half); err != nil {
			return fmt.Errorf("cannot fill the work disk: %w", err)
		}
		unix.Sync()
		if err := os.Rename(half, have); err != nil {
			return fmt.Errorf("cannot fill the work disk: %w", err)
		}
	}
	if err := unix.Mount(have, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot mount the work disk at %s: %w", target, err)
	}
	return nil
}

// dropCache forgets what the kernel has read of a disk that is not mounted: in a clone of
// a frozen guest it may be another disk by now.
func dropCache(dev string) error {
	f, err := os.Open(dev)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("cannot drop the cache of %s: %w", dev, err)
	}
	return nil
}
