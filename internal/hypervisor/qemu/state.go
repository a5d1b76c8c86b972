package qemu

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"banger/internal/hypervisor/vmm"
)

// stateHead is our part of the file of device state; see package vmm.
type stateHead struct {
	vmm.StateHead
	// Firmware is what the guest boots with again, at guest address FirmwareAt.
	FirmwareAt uint64 `json:"firmware_at"`
	Firmware   []byte `json:"firmware"`
}

// anonymousFile is a file in memory that QEMU gets by descriptor. It is closed by the caller.
func anonymousFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// again opens an anonymous file once more, with an access mode of its own: QEMU goes by that of each descriptor.
func again(f *os.File, flag int) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flag, 0)
}
