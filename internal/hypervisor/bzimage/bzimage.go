// Package bzimage takes the ELF file out of a packed Linux kernel. The hypervisors (qemu, firecracker) import it, nobody else.
package bzimage

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrUnknown is for what is no bzImage, or is packed in a way that is not known here.
var ErrUnknown = errors.New("not a kernel that can be unpacked here")

// maxKernel bounds what is unpacked; Debian's are under 100 MB.
const maxKernel = 512 << 20

// Unpack returns the ELF file in a bzImage (the kernel's Documentation/arch/x86/boot.rst; scripts/extract-vmlinux does the
// same). It knows LZ4 and gzip.
func Unpack(image []byte) ([]byte, error) {
	// The header's fields: setup_sects at 0x1f1, "HdrS" at 0x202, version at 0x206, payload's place and length at 0x248.
	if len(image) < 0x250 || string(image[0x202:0x206]) != "HdrS" || binary.LittleEndian.Uint16(image[0x206:]) < 0x208 {
		return nil, ErrUnknown
	}
	setup := int64(image[0x1f1])
	if setup == 0 {
		setup = 4
	}
	begin := (setup+1)*512 + int64(binary.LittleEndian.Uint32(image[0x248:]))
	end := begin + int64(binary.LittleEndian.Uint32(image[0x24c:]))
	if end > int64(len(image)) || end-begin < 8 {
		return nil, ErrUnknown
	}
	payload := image[begin:end]
	// The last four bytes of a payload are its unpacked length.
	size := int64(binary.LittleEndian.Uint32(payload[len(payload)-4:]))
	if size > maxKernel {
		return nil, ErrUnknown
	}
	var elf []byte
	var err error
	switch {
	case binary.LittleEndian.Uint32(payload) == lz4Magic:
		elf, err = unpackLZ4(payload[4:len(payload)-4], int(size))
	case payload[0] == 0x1f && payload[1] == 0x8b:
		var z *gzip.Reader
		if z, err = gzip.NewReader(bytes.NewReader(payload)); err == nil {
			z.Multistream(false)
			elf, err = io.ReadAll(io.LimitReader(z, size+1))
		}
	default:
		return nil, ErrUnknown
	}
	if err != nil {
		return nil, fmt.Errorf("cannot unpack the kernel: %w", err)
	}
	if int64(len(elf)) != size || !bytes.HasPrefix(elf, []byte("\x7fELF")) {
		return nil, errors.New("what the kernel was packed from is no ELF file of the length that it names")
	}
	return elf, nil
}
