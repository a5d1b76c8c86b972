package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
)

// Beside a jail's root directory, out of its VMM's reach, are a second name of each node, MAJOR:MINOR, and a file that says that a VMM was
// started. A device's number passes to another device when it is gone, and whoever still has the node then has that: so it is
// known which devices have nodes, and a node is made worthless before it is let go of.
const (
	jailNodes = "nodes"
	jailUsed  = "used"
)

// DeviceIntoJail makes a node that the VMM's group alone may open, and root alone may change.
func (js jails) DeviceIntoJail(j host.Jail, name string, major, minor uint32, readOnly bool) error {
	if err := checkName(name); err != nil {
		return err
	}
	dir, err := openJail(j)
	if err != nil {
		return err
	}
	defer dir.Close()
	mode := uint32(0o660)
	if readOnly {
		mode = 0o440
	}
	first := filepath.Join(jailDir(j), jailNodes, host.Device{Major: major, Minor: minor}.String())
	if err := unix.Mknod(first, unix.S_IFBLK, int(unix.Mkdev(major, minor))); err != nil {
		return fmt.Errorf("cannot make a block device in a jail: %w", err)
	}
	// Its group first: what the mode allows, it allows to nobody else.
	if err := errors.Join(unix.Lchown(first, -1, j.GID), unix.Chmod(first, mode)); err != nil {
		return fmt.Errorf("cannot make a block device in a jail: %w", err)
	}
	if err := unix.Linkat(unix.AT_FDCWD, first, int(dir.Fd()), name, 0); err != nil {
		return fmt.Errorf("cannot make a block device in a jail: %w", err)
	}
	return nil
}

// revokeNodes lets nobody open a jail's nodes any more, wherever they are by now.
func revokeNodes(jail string) error {
	paths, err := filepath.Glob(filepath.Join(jail, jailNodes, "*"))
	for _, path := range paths {
		err = errors.Join(err, unix.Chmod(path, 0), unix.Lchown(path, 0, 0))
	}
	if err != nil {
		return fmt.Errorf("cannot revoke the devices of a jail: %w", err)
	}
	return nil
}

// NodesInJails calls keep for each device that a jail below base has a node of; where it is false, the node is revoked.
func (jails) NodesInJails(base string, keep func(host.Device) bool) error {
	paths, err := filepath.Glob(filepath.Join(base, "*", "*", jailNodes, "*"))
	for _, path := range paths {
		var st unix.Stat_t
		switch serr := unix.Lstat(path, &st); {
		case errors.Is(serr, unix.ENOENT):
		case serr != nil:
			err = errors.Join(err, &os.PathError{Op: "stat", Path: path, Err: serr})
		case !keep(host.Device{Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev)}):
			err = errors.Join(err, unix.Chmod(path, 0), unix.Lchown(path, 0, 0))
		}
	}
	return err
}

// useJail lets one VMM be started in a jail. The jailer is root and works in a directory that becomes the VMM's: in one that a VMM
// has had, there may be anything.
func useJail(j host.Jail) error {
	f, err := os.OpenFile(filepath.Join(jailDir(j), jailUsed), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return api.Errorf(api.CodeConflict, "the jail %s was used before", j.Name)
	}
	if err != nil {
		return fmt.Errorf("cannot use a jail: %w", err)
	}
	return f.Close()
}
