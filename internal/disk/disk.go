// Package disk is the contract for copy-on-write disks. qcow2/ and clone/
// implement it; both pass disktest/. It may be imported by template and vm.
package disk

import "context"

// Spec describes a disk to make.
type Spec struct {
	// Path is where it goes; its directory exists, it does not.
	Path string
	// Base is a sealed image that shows through; empty for an empty disk.
	Base string
	// BaseFormat is "raw" (also when empty) or the driver's own Format.
	BaseFormat string
	// SizeBytes is the size that the guest sees, a multiple of 512, at least the base's.
	SizeBytes int64
	// UID and GID will own the file (mode 0600); 0 means the daemon's own.
	UID, GID int
	// Give is host.Files': how the file comes to be UID's. Nil changes its owner, which takes root.
	Give func(path string, uid int) error
}

// Driver makes disks of one kind. Safe for concurrent use on different paths.
type Driver interface {
	// Name is "qcow2" or "clone".
	Name() string
	// Format is how a VMM opens such a disk: "qcow2" or "raw".
	Format() string
	// Create makes the disk in time that does not depend on its size, or leaves nothing behind.
	Create(ctx context.Context, s Spec) error
	// Grow makes a disk that no VMM has open larger; the same size is no error, a smaller one is.
	Grow(ctx context.Context, path string, sizeBytes int64) error
	// Size is the size that the guest sees.
	Size(ctx context.Context, path string) (int64, error)
	// Delete removes it; a missing one is no error.
	Delete(ctx context.Context, path string) error
}
