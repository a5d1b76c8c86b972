package qemu

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"banger/internal/hypervisor"
	"banger/internal/hypervisor/vmm"
)

// stateHead is our part of the file of device state; see package vmm.
type stateHead struct {
	Stamp hypervisor.Stamp `json:"stamp"`
	// Whole: the memory is an image, else a file of pages.
	Whole bool `json:"whole"`
	// Firmware is what the guest boots with again, at guest address FirmwareAt.
	FirmwareAt uint64 `json:"firmware_at"`
	Firmware   []byte `json:"firmware"`
}

// state is a frozen guest's devices.
type state struct {
	stateHead
	stream []byte
}

func (s *state) encode() ([]byte, error) { return vmm.EncodeState(s.stateHead, s.stream) }

// readState reads and checks a file of device state; what is wrong with it has code conflict.
func readState(path string) (*state, error) {
	s := &state{}
	var err error
	if s.stream, err = vmm.ReadState(path, &s.stateHead); err != nil {
		return nil, err
	}
	return s, nil
}

func parseState(b []byte) (*state, error) {
	s := &state{}
	var err error
	s.stream, err = vmm.ParseState(b, &s.stateHead)
	return s, err
}

// cannotContinue is the error for a state that this VMM, machine or host cannot go on from.
func cannotContinue(err error) error { return vmm.CannotContinue(err) }

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
