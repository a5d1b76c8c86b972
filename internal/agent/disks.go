package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/api/agentapi"
)

// findDisk returns the device (/dev/vda) of the disk that the host gave this serial.
func findDisk(serial string) (string, error) {
	if dev, ok := findDisks()[serial]; ok {
		return dev, nil
	}
	return "", fmt.Errorf("no disk with serial %q: %w", serial, os.ErrNotExist)
}

// findDisks returns the devices of all disks that have a serial. Each is asked, which reads nothing of it.
func findDisks() map[string]string {
	if order := kernelParam(agentapi.ParamDisks); order != "" {
		return disksInOrder(strings.Split(order, ","))
	}
	out := map[string]string{}
	files, _ := filepath.Glob("/sys/block/*/serial")
	for _, f := range files {
		// The kernel gives up to 20 bytes (VIRTIO_BLK_ID_BYTES), with no NUL when all are used.
		if data, err := os.ReadFile(f); err == nil {
			out[strings.TrimRight(string(data), "\x00\n ")] = "/dev/" + filepath.Base(filepath.Dir(f))
		}
	}
	return out
}

// disksInOrder gives the virtio disks their serials, in the order of the bus: Firecracker's disks have none that the host could choose.
func disksInOrder(serials []string) map[string]string {
	type found struct {
		number int // of virtioN
		name   string
	}
	var all []found
	links, _ := filepath.Glob("/sys/block/vd*/device")
	for _, l := range links {
		target, err := filepath.EvalSymlinks(l)
		if err != nil {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(target), "virtio")); err == nil {
			all = append(all, found{n, filepath.Base(filepath.Dir(l))})
		}
	}
	slices.SortFunc(all, func(a, b found) int { return a.number - b.number })
	out := map[string]string{}
	for n, f := range all {
		if n < len(serials) {
			out[serials[n]] = "/dev/" + f.name
		}
	}
	return out
}

// waitDisk waits for a disk and its node in /dev.
func waitDisk(ctx context.Context, serial string, limit time.Duration) (dev string, err error) {
	err = retry(ctx, limit, func() error {
		if dev, err = findDisk(serial); err != nil {
			return err
		}
		_, err = os.Stat(dev)
		return err
	})
	return dev, err
}

// diskSize is a block device's size in bytes.
func diskSize(dev string) (int64, error) {
	f, err := os.Open(dev)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return deviceSize(f)
}

func deviceSize(f *os.File) (int64, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("cannot find the size of %s: %w", f.Name(), err)
	}
	return size, nil
}

// content is what a disk holds.
type content int

const (
	contentBlank content = iota
	contentExt4
	contentDamaged // ext4 that asks for a check
	contentForeign
)

// The superblock of ext4 (kernel: Documentation/filesystems/ext4/super.rst).
const (
	superOffset = 1024
	superMagic  = 0x38 // le16, 0xEF53
	superState  = 0x3A // le16: 1 cleanly unmounted or journaled, 2 errors were seen
)

// edge is how much at either end of a disk must be zero for it to count as blank. Every
// common file system, partition table and volume manager leaves a mark there.
const edge = 1 << 20

// inspect tells what is on a disk, so that none is ever formatted that holds something.
func inspect(dev string) (content, error) {
	f, err := os.Open(dev)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := deviceSize(f)
	if err != nil {
		return 0, err
	}
	// No more than that is read of a disk that is ours: each page of it is one more of this guest's own.
	head := make([]byte, min(4096, size))
	if _, err := f.ReadAt(head, 0); err != nil {
		return 0, fmt.Errorf("cannot read %s: %w", dev, err)
	}
	if len(head) >= superOffset+superState+2 {
		super := head[superOffset:]
		if binary.LittleEndian.Uint16(super[superMagic:]) == 0xEF53 {
			if binary.LittleEndian.Uint16(super[superState:])&3 != 1 {
				return contentDamaged, nil
			}
			return contentExt4, nil
		}
	}
	head = make([]byte, min(edge, size))
	if _, err := f.ReadAt(head, 0); err != nil {
		return 0, fmt.Errorf("cannot read %s: %w", dev, err)
	}
	tail := make([]byte, len(head))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return 0, fmt.Errorf("cannot read %s: %w", dev, err)
	}
	for _, part := range [][]byte{head, tail} {
		for _, b := range part {
			if b != 0 {
				return contentForeign, nil
			}
		}
	}
	return contentBlank, nil
}

// ext4Resize is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64): the new size in blocks
// (kernel: fs/ext4/ext4.h).
const ext4Resize = 0x40086610

// growExt4 makes the file system mounted at dir as large as its device. It reports
// whether there was anything to do.
func growExt4(dev, dir string) (bool, error) {
	size, err := diskSize(dev)
	if err != nil {
		return false, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	block, have, err := ext4Blocks(dev)
	if err != nil {
		return false, err
	}
	want := uint64(size / block)
	if have >= want {
		return false, nil
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4Resize, uintptr(unsafe.Pointer(&want))); errno != 0 {
		return false, fmt.Errorf("cannot grow the file system at %s to %d bytes: %w", dir, size, errno)
	}
	return true, nil
}

// ext4Blocks reads block size and count from the superblock, since statfs leaves
// the file system's own blocks out.
func ext4Blocks(dev string) (size int64, count uint64, err error) {
	f, err := os.Open(dev)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, superOffset); err != nil {
		return 0, 0, fmt.Errorf("cannot read the superblock of %s: %w", dev, err)
	}
	le := binary.LittleEndian
	log := le.Uint32(super[0x18:])
	if le.Uint16(super[superMagic:]) != 0xEF53 || log > 6 {
		return 0, 0, fmt.Errorf("%s holds no ext4 file system", dev)
	}
	count = uint64(le.Uint32(super[0x4:]))
	if le.Uint32(super[0x60:])&0x80 != 0 { // INCOMPAT_64BIT
		count |= uint64(le.Uint32(super[0x150:])) << 32
	}
	return 1024 << log, count, nil
}
