package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
)

// blocks implements host.Blocks: loop devices here, mapped ones in blocks_map.go. Its zero value is ready.
type blocks struct {
	// owner is whose devices it makes, and alone touches: the uid of the daemon, which may have a bangerd-root do it.
	owner int
}

// loopMark is the note on loop devices of ours; the kernel keeps it for whoever asks (lo_file_name).
func (b blocks) loopMark() string { return fmt.Sprint("banger:", b.owner) }

// loopMajor is fixed (Documentation/admin-guide/devices.txt).
const loopMajor = 7

// loopControl gives out numbers that are free.
const loopControl = "/dev/loop-control"

// OpenLoop takes a free device. It is marked to clear itself when it is closed for the last time, so that a death at any moment strands none.
func (b blocks) OpenLoop(ctx context.Context, file *os.File, l host.Loop) (host.OpenedLoop, error) {
	control, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if err != nil {
		return host.OpenedLoop{}, fmt.Errorf("cannot make a loop device: %w", err)
	}
	defer control.Close()
	for context.Cause(ctx) == nil {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return host.OpenedLoop{}, fmt.Errorf("cannot make a loop device: %w", err)
		}
		loop, err := b.configureLoop(uint32(n), file, l)
		if errors.Is(err, unix.EBUSY) {
			continue // somebody else was faster
		}
		if err != nil {
			return host.OpenedLoop{}, fmt.Errorf("cannot make a loop device of %s: %w", file.Name(), err)
		}
		return loop, nil
	}
	return host.OpenedLoop{}, context.Cause(ctx)
}

func (b blocks) configureLoop(n uint32, file *os.File, l host.Loop) (host.OpenedLoop, error) {
	d := host.Device{Major: loopMajor, Minor: n}
	path, err := node(fmt.Sprint("loop", n), d)
	if err != nil {
		return host.OpenedLoop{}, err
	}
	// A loop device is read-only for ever when it is made through a descriptor that is.
	wide, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return host.OpenedLoop{}, err
	}
	defer wide.Close()
	c := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{
		Offset: uint64(l.Offset), Sizelimit: uint64(l.Size), Flags: unix.LO_FLAGS_AUTOCLEAR,
	}}
	copy(c.Info.File_name[:], b.loopMark())
	if l.ReadOnly {
		c.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	if l.Direct { // no error where it cannot be: then the page cache is used
		c.Info.Flags |= unix.LO_FLAGS_DIRECT_IO
	}
	if err := unix.IoctlLoopConfigure(int(wide.Fd()), &c); err != nil {
		return host.OpenedLoop{}, err
	}
	hold, err := os.OpenFile(path, os.O_RDONLY, 0)
	return host.OpenedLoop{Device: d, Node: path, File: hold}, err
}

// loop opens a loop device of ours.
func (b blocks) loop(d host.Device) (*os.File, *unix.LoopInfo64, error) {
	if d.Major != loopMajor {
		return nil, nil, api.Errorf(api.CodeInvalid, "device %s is no loop device", d)
	}
	path, err := node(fmt.Sprint("loop", d.Minor), d)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) {
		return nil, nil, api.Errorf(api.CodeNotFound, "there is no loop device %s: %w", d, err)
	} else if err != nil {
		return nil, nil, err
	}
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	switch {
	case errors.Is(err, unix.ENXIO):
		err = api.Errorf(api.CodeNotFound, "there is nothing behind loop device %s", d)
	case err == nil && unix.ByteSliceToString(info.File_name[:]) != b.loopMark():
		err = api.Errorf(api.CodeConflict, "loop device %s is not banger's, or of another daemon", d)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// ResizeLoop changes one number of the device's, and leaves the others.
func (b blocks) ResizeLoop(d host.Device, size int64) error {
	f, info, err := b.loop(d)
	if err != nil {
		return err
	}
	defer f.Close()
	info.Sizelimit = uint64(size)
	if err := unix.IoctlLoopSetStatus64(int(f.Fd()), info); err != nil {
		return fmt.Errorf("cannot resize loop device %s: %w", d, err)
	}
	// With the same limit the file may have grown.
	if err := unix.IoctlSetInt(int(f.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("cannot resize loop device %s: %w", d, err)
	}
	return nil
}

// LoopFile asks the device for the file, and sysfs for its name.
func (b blocks) LoopFile(d host.Device) (host.LoopFile, error) {
	f, info, err := b.loop(d)
	if err != nil {
		return host.LoopFile{}, err
	}
	defer f.Close()
	text, err := os.ReadFile(filepath.Join("/sys/dev/block", d.String(), "loop/backing_file"))
	if err != nil {
		return host.LoopFile{}, fmt.Errorf("cannot tell what is behind loop device %s: %w", d, err)
	}
	return host.LoopFile{
		Path:   strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), " (deleted)"),
		Device: info.Device, Inode: info.Inode, Direct: info.Flags&unix.LO_FLAGS_DIRECT_IO != 0,
	}, nil
}

// node is the path of a block device's node, made where nobody has: neither devtmpfs nor udev.
func node(name string, d host.Device) (string, error) {
	path := "/dev/" + name
	var st unix.Stat_t
	want := unix.Mkdev(d.Major, d.Minor)
	switch err := unix.Lstat(path, &st); {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == want:
		return path, nil
	case err == nil: // a leftover of another device
		if err := os.Remove(path); err != nil {
			return "", err
		}
	case !errors.Is(err, unix.ENOENT):
		return "", err
	}
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(want)); err != nil && !errors.Is(err, unix.EEXIST) {
		return "", fmt.Errorf("cannot make %s: %w", path, err)
	}
	return path, nil
}
