package qemu

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/hypervisor"
)

// A file of device state: magic, length of what follows, CRC32C of it; then lines of JSON (stateHead), a zero byte,
// and QEMU's own stream.
const (
	stateMagic  = "bngrDV01"
	stateHeader = 8 + 8 + 4
	// maxState bounds what is read: QEMU's stream for a machine of ours has under 100 KB.
	maxState = 64 << 20
)

// stateHead is our part of the file.
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

func (s *state) encode() ([]byte, error) {
	head, err := json.Marshal(s.stateHead)
	if err != nil {
		return nil, err
	}
	body := append(append(head, 0), s.stream...)
	b := append(make([]byte, 0, stateHeader+len(body)), stateMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(body)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	return append(b, body...), nil
}

// readState reads and checks a file of device state; what is wrong with it has code conflict.
func readState(path string) (*state, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, cannotContinue(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState))
	if err != nil {
		return nil, err
	}
	s, err := parseState(b)
	if err != nil {
		return nil, cannotContinue(fmt.Errorf("the device state %s is damaged: %w", path, err))
	}
	return s, nil
}

func parseState(b []byte) (*state, error) {
	if len(b) < stateHeader || string(b[:8]) != stateMagic {
		return nil, errors.New("it does not begin as one")
	}
	body := b[stateHeader:]
	if binary.LittleEndian.Uint64(b[8:]) != uint64(len(body)) {
		return nil, errors.New("its length is wrong")
	}
	if binary.LittleEndian.Uint32(b[16:]) != crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) {
		return nil, errors.New("its content does not check")
	}
	head, stream, ok := bytes.Cut(body, []byte{0})
	s := &state{stream: stream}
	if err := json.Unmarshal(head, &s.stateHead); !ok || err != nil {
		return nil, errors.Join(errors.New("its head makes no sense"), err)
	}
	return s, nil
}

// cannotContinue is the error for a state that this VMM, machine or host cannot go on from.
func cannotContinue(err error) error { return api.Errorf(api.CodeConflict, "%w", err) }

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
