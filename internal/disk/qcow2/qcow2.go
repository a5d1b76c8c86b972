// Package qcow2 makes copy-on-write disks in QEMU's format. It may be imported by
// daemon, which chooses the driver.
//
// It writes and reads the header itself, and does not run qemu-img: making an empty overlay is
// 200 KiB of constants, and a disk that a VMM has written must not be parsed by
// a big program with the daemon's rights (a forged header names any file as its base).
// Of a foreign header we read two numbers and write two.
package qcow2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"banger/api"
	"banger/internal/disk"
)

// Driver is disk.Driver.
type Driver struct{}

var _ disk.Driver = Driver{}

// Name is "qcow2".
func (Driver) Name() string { return "qcow2" }

// Format is "qcow2".
func (Driver) Format() string { return "qcow2" }

// Create makes an empty overlay.
func (Driver) Create(_ context.Context, s disk.Spec) error {
	return disk.Publish(s, func(f *os.File) error {
		base := s.Base
		if base != "" {
			below, err := baseSize(s)
			if err != nil {
				return err
			}
			if below > s.SizeBytes {
				return api.Errorf(api.CodeInvalid, "a disk of %d MiB is smaller than its base of %d MiB", s.SizeBytes>>20, below>>20)
			}
			// A relative one would be looked up beside the overlay.
			if base, err = filepath.Abs(base); err != nil {
				return err
			}
		}
		return write(f, s.SizeBytes, base, s.BaseFormat)
	})
}

// baseSize is the size of the base as a guest sees it.
func baseSize(s disk.Spec) (int64, error) {
	f, err := os.Open(s.Base)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if s.BaseFormat == "qcow2" {
		h, err := readHeader(f)
		return h.size, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// The layout of what we make, in clusters: header, refcount table, one refcount block, L1 table.
// An entry of the L1 table is for 8192 clusters, 512 MiB; ours has one cluster of entries
// from the beginning, so that a disk grows without anything being moved. QEMU takes a table larger
// than the disk needs as it is (docs/interop/qcow2.txt; block/qcow2.c, qcow2_do_open).
const (
	clusterBits = 16
	cluster     = 1 << clusterBits
	l1Entries   = cluster / 8
	clusters    = 4
	// maxSize is what the L1 table reaches: 4 TiB.
	maxSize = l1Entries * (cluster / 8) * cluster
)

// Offsets in the header.
const (
	atSize   = 24
	atL1Size = 36
)

func write(f *os.File, size int64, base, baseFormat string) error {
	if err := checkSize(size); err != nil {
		return err
	}
	const headerLength = 104
	b := make([]byte, 0, 2048)
	be := binary.BigEndian
	u32 := func(v uint32) { b = be.AppendUint32(b, v) }
	u64 := func(v uint64) { b = be.AppendUint64(b, v) }
	u32(magic)
	u32(3) // version
	backingAt, extension := uint64(0), []byte(nil)
	if base != "" {
		if len(base) > 1023 {
			return api.Errorf(api.CodeInvalid, "the base's path is longer than 1023 bytes")
		}
		extension = be.AppendUint32(extension, 0xe2792aca) // the base's format, so that QEMU need not guess it from the guest's bytes
		if baseFormat == "" {
			baseFormat = "raw"
		}
		extension = be.AppendUint32(extension, uint32(len(baseFormat)))
		extension = append(extension, make([]byte, 8)...)
		copy(extension[8:], baseFormat) // "raw" or "qcow2", padded to eight bytes
		backingAt = headerLength + uint64(len(extension)) + 8
	}
	u64(backingAt)
	u32(uint32(len(base)))
	u32(clusterBits)
	u64(uint64(size))
	u32(0) // no encryption
	u32(l1Entries)
	u64(3 * cluster) // L1 table
	u64(1 * cluster) // refcount table
	u32(1)           // its clusters
	u32(0)           // no snapshots
	u64(0)
	u64(0) // no incompatible, compatible or autoclear features
	u64(0)
	u64(0)
	u32(4) // refcounts of 2^4 bits
	u32(headerLength)
	b = append(b, extension...)
	u64(0) // end of extensions
	b = append(b, base...)

	refcounts := make([]byte, 0, clusters*2)
	for range clusters {
		refcounts = be.AppendUint16(refcounts, 1)
	}
	if err := f.Truncate(clusters * cluster); err != nil {
		return err
	}
	for at, text := range map[int64][]byte{0: b, cluster: be.AppendUint64(nil, 2*cluster), 2 * cluster: refcounts} {
		if _, err := f.WriteAt(text, at); err != nil {
			return err
		}
	}
	return nil
}

const magic = 0x514649fb // "QFI\xfb"

func checkSize(size int64) error {
	if size > maxSize {
		return api.Errorf(api.CodeInvalid, "a disk of %d GiB is larger than 4 TiB", size>>30)
	}
	return nil
}

// header is what we read of a disk, guest's or not.
type header struct {
	size      int64
	l1Entries uint32
}

func readHeader(f *os.File) (header, error) {
	b := make([]byte, 104)
	if _, err := f.ReadAt(b, 0); err != nil {
		return header{}, fmt.Errorf("cannot read disk %s: %w", f.Name(), err)
	}
	be := binary.BigEndian
	h := header{size: int64(be.Uint64(b[atSize:])), l1Entries: be.Uint32(b[atL1Size:])}
	if be.Uint32(b) != magic || be.Uint32(b[4:]) != 3 || h.size < 0 {
		return header{}, fmt.Errorf("disk %s has no qcow2 header, or a damaged one", f.Name())
	}
	return h, nil
}

// Grow writes the new size into the header: the L1 table is large enough since Create.
func (Driver) Grow(_ context.Context, path string, sizeBytes int64) error {
	f, err := disk.Open(path, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	h, err := readHeader(f)
	if err != nil {
		return err
	}
	more, err := disk.CheckGrowth(path, h.size, sizeBytes)
	if !more || err != nil {
		return err
	}
	if err := checkSize(sizeBytes); err != nil {
		return err
	}
	if h.l1Entries < l1Entries {
		return api.Errorf(api.CodeConflict, "disk %s was not made by banger: it cannot grow", path)
	}
	_, err = f.WriteAt(binary.BigEndian.AppendUint64(nil, uint64(sizeBytes)), atSize)
	return errors.Join(err, f.Sync())
}

// Size reads the header.
func (Driver) Size(_ context.Context, path string) (int64, error) {
	f, err := disk.Open(path, os.O_RDONLY)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	h, err := readHeader(f)
	return h.size, err
}

// Delete removes it.
func (Driver) Delete(_ context.Context, path string) error { return disk.Remove(path) }
