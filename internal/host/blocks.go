package host

import (
	"context"
	"fmt"
	"os"
)

// Device is the number of a block device.
type Device struct{ Major, Minor uint32 }

// String is the number as the kernel writes it: "253:4".
func (d Device) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// Loop is a wanted loop device.
type Loop struct {
	ReadOnly bool
	// Offset and Size, in bytes, multiples of 512, are the part of the file that shows; Size 0 is up to the file's end.
	Offset, Size int64
	// Direct goes past the host's page cache, where the file system can.
	Direct bool
}

// OpenedLoop is a loop device that exists at least until File is closed.
type OpenedLoop struct {
	Device
	Node string // its path
	File *os.File
}

// Close lets go of it.
func (l OpenedLoop) Close() error { return l.File.Close() }

// LoopFile is what lies behind a loop device.
type LoopFile struct {
	// Path is a name that the file has, or had when its last one was removed.
	Path string
	// Device and Inode are which file it is, as in stat.
	Device, Inode uint64
	// Direct reports whether it goes past the host's page cache.
	Direct bool
}

// MapKind is what a stretch of a mapped device is made of.
type MapKind string

// The kinds that we use, as device-mapper names them.
const (
	MapZero     MapKind = "zero"
	MapLinear   MapKind = "linear"
	MapSnapshot MapKind = "snapshot"
)

// MapTarget is a stretch of a mapped device; it begins where the one before it ends.
type MapTarget struct {
	Kind    MapKind
	Sectors int64 // of 512 bytes
	// Origin is what a linear target shows, from its beginning, and what shows through a snapshot.
	Origin Device
	// COW is where a snapshot keeps what was written, in chunks of 4 KiB: a persistent store that is marked as such.
	COW Device
}

// Mapped is a mapped device.
type Mapped struct {
	Name string
	Device
	// Node is the path of the device's node, which belongs to root.
	Node string
	// Suspended holds back all input and output.
	Suspended bool
	// Waiting reports whether a table is loaded that the next resume takes into use.
	Waiting  bool
	ReadOnly bool
	// Open counts who has it open, devices above it included.
	Open int
	// Table is what is in use; empty for a device that was never resumed.
	Table []MapTarget
	// Broken is why a snapshot in the table answers with errors from now on; empty when none does.
	Broken string
	// UsedSectors is how much of its COW device a snapshot has given away, metadata included.
	UsedSectors int64
}

// Blocks makes block devices. It touches such loop and mapped devices only as it has made: they are marked as banger's. Names of mapped devices begin with
// "banger-", and have lower case letters, digits, '-' and '.' only.
type Blocks interface {
	// CanMap is nil where loop devices and snapshots can be made. The error has code permission_denied or unsupported.
	CanMap() error
	// OpenLoop makes a loop device of an open file, for writing unless l.ReadOnly, and opens it. The device vanishes when nobody has it open any more:
	// neither the caller nor a mapped device whose table, in use or waiting, it is in.
	OpenLoop(ctx context.Context, file *os.File, l Loop) (OpenedLoop, error)
	// ResizeLoop makes another part of the file show, from the same offset; as for Loop.Size. It is done while the device is in use.
	ResizeLoop(d Device, size int64) error
	// LoopFile tells what is behind a loop device; the error has code not_found where there is nothing.
	LoopFile(d Device) (LoopFile, error)
	// CreateMapped makes a device without a table. A name that is taken has code conflict.
	CreateMapped(name string) (Mapped, error)
	// LoadMapped gives a device a table, to be taken into use by the next resume.
	LoadMapped(name string, table []MapTarget, readOnly bool) error
	// ClearMapped throws away the table that LoadMapped gave.
	ClearMapped(name string) error
	// SuspendMapped waits for what is under way and holds back everything from then on.
	SuspendMapped(name string) error
	// ResumeMapped takes the waiting table into use, if there is one, and lets everything go on.
	ResumeMapped(name string) error
	// RemoveMapped takes a device away. One that is open has code busy; one that is not there is no error.
	RemoveMapped(name string) error
	// Mapped tells about a device; the error has code not_found where there is none.
	Mapped(name string) (Mapped, error)
	// MappedNames lists the devices of ours whose names begin with prefix, sorted.
	MappedNames(prefix string) ([]string, error)
	// AwaitBroken returns when the device has become Mapped.Broken, or with code not_found when it is gone, or when ctx ends.
	AwaitBroken(ctx context.Context, name string) (Mapped, error)
}
