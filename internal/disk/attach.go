package disk

import "context"

// Attacher puts disks of one format together as block devices of this host, for VMMs that open devices only. dmsnapshot/
// implements it; hypervisors are given it at construction. Safe for concurrent use; calls for one name wait for one another.
//
// A device's name is "banger-" with the VM's id and the drive's serial; all that is made on the host for it has this name, or one
// that begins with it and a dot, or vanishes by itself with the last of these. So nothing need be remembered to take it away.
type Attacher interface {
	// Format is Drive.Format of the disks that it attaches: "dmsnapshot".
	Format() string
	// CanAttach is nil where it can be done: root, device-mapper with its snapshot target, loop devices. The error has code
	// permission_denied or unsupported.
	CanAttach() error
	// Attach makes the device. What the disk lies on is read now, and nobody may write it any more. One of that name that is there already and has path on top is taken as it is; else it is removed
	// first. A disk whose last device broke for want of room on the host holds what had been written until then. On error
	// nothing is left behind.
	Attach(ctx context.Context, name, path string, readOnly bool) (Attached, error)
	// Switch moves a device that is in use on to the disk newTop, which is empty and whose base is the device's present top: that
	// never changes again. All that was written before is in the old top, and on the host's disk once that file is fsynced. The device's users notice a delay only. Cut off at any moment,
	// the device is on the old top or on the new one, perhaps suspended: see Resume. On error it is on the old one.
	Switch(ctx context.Context, name, newTop string) error
	// Flatten is hypervisor.Instance's, and must be given base by the path that headers name it by, or one of the same file. It ends
	// early, with code cancelled, when a Switch, GrowAttached or Detach of that name comes.
	Flatten(ctx context.Context, name, base string) error
	// GrowAttached makes a disk that is in use larger, as Driver.Grow does one that is not; errors as there.
	GrowAttached(ctx context.Context, name string, sizeBytes int64) error
	// Resume lets a device go on that a daemon has left suspended; one that is not suspended is no error.
	Resume(ctx context.Context, name string) error
	// Top is the path of the file that a device writes to; the error has code not_found when there is no such device.
	Top(ctx context.Context, name string) (string, error)
	// Usage tells how a device does; errors as for Top.
	Usage(ctx context.Context, name string) (Usage, error)
	// AwaitBroken returns when the device is broken, with Usage.Broken, or gone, with code not_found, or when ctx ends.
	AwaitBroken(ctx context.Context, name string) (reason string, err error)
	// Detach removes the device and all below it. Being used no longer, but for a moment still, it is waited for some seconds; then the error has
	// code busy. What is not there is no error.
	Detach(ctx context.Context, name string) error
}

// Attached is a disk that is a block device.
type Attached struct {
	// Device is the node, "/dev/dm-3"; it belongs to root. Major and Minor are for making another one.
	Device       string
	Major, Minor uint32
	// DMName is the name given to Attach.
	DMName string
	// COWLoop is the loop device of the disk's own file, BaseLoops are those below it, the lowest first: "/dev/loop7".
	COWLoop   string
	BaseLoops []string
}

// Usage is how an attached disk does.
type Usage struct {
	// Broken says in a clause why the disk takes no more writes and fails reads; empty when it does not.
	Broken string
	// OwnBytes is what the disk holds in its own file.
	OwnBytes int64
}
