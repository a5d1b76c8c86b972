package agent

import (
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fitrim is FITRIM, _IOWR('X', 121, struct fstrim_range { __u64 start, len, minlen }) (linux/fs.h).
const fitrim = 0xC0185879

// trim gives the free space of the file system at dir back to the host, as fstrim(8). A disk that cannot take
// it is none the worse.
func trim(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot trim %s: %w", dir, err)
	}
	defer f.Close()
	span := [3]uint64{0, math.MaxUint64, 0}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fitrim, uintptr(unsafe.Pointer(&span)))
	if errno != 0 && !errors.Is(errno, unix.EOPNOTSUPP) && !errors.Is(errno, unix.ENOTTY) {
		return fmt.Errorf("cannot trim %s: %w", dir, errno)
	}
	return nil
}
