package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/api"
)

// Publish makes the file s.Path in one go: fill writes it under another name, then it gets its
// owner and mode, is fsynced and takes its name, unless that is there already. A failure at any point
// leaves nothing behind.
//
// The directory may belong to the VM's uid, so no name in it is trusted to be what it was: files
// are made with O_EXCL and never opened through a link.
func Publish(s Spec, fill func(f *os.File) error) (err error) {
	if s.SizeBytes <= 0 || s.SizeBytes%512 != 0 {
		return api.Errorf(api.CodeInvalid, "a disk of %d bytes: use a multiple of 512", s.SizeBytes)
	}
	temp := s.Path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot make disk: %w", err)
	}
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return wrap(s.Path, err)
	}
	defer func() {
		err = wrap(s.Path, errors.Join(err, f.Close()))
		if err != nil {
			err = errors.Join(err, ignoreMissing(os.Remove(temp)))
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o600), give(s, f, temp), f.Sync()); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, s.Path, unix.RENAME_NOREPLACE); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(s.Path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func give(s Spec, f *os.File, temp string) error {
	switch {
	case s.UID == 0 && s.GID == 0:
		return nil
	case s.Give != nil:
		return s.Give(temp, s.UID)
	}
	return f.Chown(s.UID, s.GID)
}

// wrap words a failure; a full disk has a code of its own.
func wrap(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return api.Errorf(api.CodeExhausted, "cannot make disk %s: %w", path, err).WithHint("banger prune")
	}
	return fmt.Errorf("cannot make disk %s: %w", path, err)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Open opens a disk that a VMM may have written, and that lies in a directory which the VMM may
// have changed: never through a link, and only a plain file with one name that belongs to
// the directory's owner. What is in it is not to be trusted either.
func Open(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open disk: %w", err)
	}
	if err := ours(f); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open disk %s: %w", path, err), f.Close())
	}
	return f, nil
}

func ours(f *os.File) error {
	var file, dir unix.Stat_t
	if err := errors.Join(unix.Fstat(int(f.Fd()), &file), unix.Stat(filepath.Dir(f.Name()), &dir)); err != nil {
		return err
	}
	switch {
	case file.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it is no plain file")
	case file.Nlink != 1:
		return errors.New("it has more than one name")
	case file.Uid != dir.Uid && file.Uid != uint32(os.Geteuid()):
		return fmt.Errorf("it belongs to uid %d, its directory to uid %d", file.Uid, dir.Uid)
	}
	return nil
}

// Remove is Delete of every driver: a missing disk is no error.
func Remove(path string) error {
	if err := ignoreMissing(os.Remove(path)); err != nil {
		return fmt.Errorf("cannot delete disk: %w", err)
	}
	return nil
}

// CheckGrowth refuses what Grow must refuse; more is false when there is nothing to do.
func CheckGrowth(path string, have, want int64) (more bool, err error) {
	switch {
	case want%512 != 0:
		return false, api.Errorf(api.CodeInvalid, "a disk of %d bytes: use a multiple of 512", want)
	case want < have:
		return false, api.Errorf(api.CodeInvalid, "cannot shrink disk %s from %d MiB to %d MiB", path, have>>20, want>>20)
	}
	return want > have, nil
}
