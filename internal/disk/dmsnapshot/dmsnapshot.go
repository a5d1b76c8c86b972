// Package dmsnapshot makes copy-on-write disks that the kernel puts together: what was written lies in a sparse file, one for each disk and layer, as
// device-mapper's snapshot target keeps it. It may be imported by daemon, which chooses the driver.
//
// A disk's file says itself what it lies on, so nothing else need know (see header.go). It belongs to the daemon, whoever
// runs the VM: a VMM gets the block device, and never opens the file, whose header names what the daemon would open for it.
package dmsnapshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/host"
	"banger/internal/keylock"
)

// Format is how headers and records name such disks.
const Format = "dmsnapshot"

const formatRaw = "raw"

// Options are the parts that a Driver stands on.
type Options struct {
	Host host.Blocks
	Log  *slog.Logger
}

// Driver is disk.Driver and disk.Attacher.
type Driver struct {
	Options
	locks keylock.Locks // by device's name; held for all that changes it

	mu sync.Mutex // protects the following
	// flattening is what ends the Flatten of a device.
	flattening map[string]context.CancelCauseFunc
}

var (
	_ disk.Driver   = (*Driver)(nil)
	_ disk.Attacher = (*Driver)(nil)
)

// New makes a driver. It touches nothing yet.
func New(o Options) *Driver {
	return &Driver{Options: o, flattening: make(map[string]context.CancelCauseFunc)}
}

// Name is "dmsnapshot".
func (*Driver) Name() string { return Format }

// Format is "dmsnapshot".
func (*Driver) Format() string { return Format }

// Create makes an empty disk. Its file belongs to the daemon, whatever s.UID is.
func (*Driver) Create(_ context.Context, s disk.Spec) error {
	s.UID, s.GID = 0, 0
	return disk.Publish(s, func(f *os.File) error {
		h := header{Size: s.SizeBytes, Reserved: firstFree}
		if err := checkSize(s.SizeBytes); err != nil {
			return err
		}
		if s.Base != "" {
			below, err := baseSize(s)
			if err != nil {
				return err
			}
			if below > s.SizeBytes {
				return api.Errorf(api.CodeInvalid, "a disk of %d MiB is smaller than its base of %d MiB", s.SizeBytes>>20, below>>20)
			}
			if h.Base, err = filepath.Abs(s.Base); err != nil {
				return err
			}
			if h.BaseFormat = s.BaseFormat; h.BaseFormat == "" {
				h.BaseFormat = formatRaw
			}
			if !validBase(h.Base, h.BaseFormat) {
				return api.Errorf(api.CodeInvalid, "a dmsnapshot disk cannot lie on one of format %q", h.BaseFormat)
			}
		}
		if err := f.Truncate(fileBytes(firstFree)); err != nil {
			return err
		}
		if _, err := f.WriteAt(storeHeader(), storeAt); err != nil {
			return err
		}
		return writeHeader(f, &h)
	})
}

func baseSize(s disk.Spec) (int64, error) {
	f, err := openFile(s.Base, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if s.BaseFormat == Format {
		h, err := readHeader(f)
		return h.Size, err
	}
	return rawSize(f)
}

func rawSize(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() == 0 || info.Size()%512 != 0 {
		return 0, api.Errorf(api.CodeInvalid, "image %s has %d bytes, not a multiple of 512", f.Name(), info.Size())
	}
	return info.Size(), nil
}

func checkSize(size int64) error {
	if size > maxSize {
		return api.Errorf(api.CodeInvalid, "a disk of %d GiB is larger than %d TiB", size>>30, maxSize>>40)
	}
	return nil
}

// openFile opens a plain file that was never a link.
func openFile(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open disk: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("cannot open disk %s: it is no plain file", path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ours refuses a disk that somebody else could have written: its header would make the daemon open any file.
func ours(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("cannot open disk %s: others than the daemon may write it", f.Name())
	}
	return nil
}

// openDisk opens a disk that lies alone, as disk.Open does, and reads its header.
func openDisk(path string, flag int) (*os.File, header, error) {
	f, err := disk.Open(path, flag)
	if err != nil {
		return nil, header{}, err
	}
	h, err := headerOf(f)
	if err != nil {
		return nil, header{}, errors.Join(err, f.Close())
	}
	return f, h, nil
}

func headerOf(f *os.File) (header, error) {
	if err := ours(f); err != nil {
		return header{}, err
	}
	h, err := readHeader(f)
	if err != nil {
		return header{}, fmt.Errorf("cannot read disk %s: %w", f.Name(), err)
	}
	return h, nil
}

// Grow writes the new size into the header.
func (*Driver) Grow(_ context.Context, path string, sizeBytes int64) error {
	f, h, err := openDisk(path, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	more, err := disk.CheckGrowth(path, h.Size, sizeBytes)
	if !more || err != nil {
		return err
	}
	if err := checkSize(sizeBytes); err != nil {
		return err
	}
	h.Size = sizeBytes
	return writeHeader(f, &h)
}

// Size reads the header.
func (*Driver) Size(_ context.Context, path string) (int64, error) {
	f, h, err := openDisk(path, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	return h.Size, f.Close()
}

// Delete removes it.
func (*Driver) Delete(_ context.Context, path string) error { return disk.Remove(path) }
