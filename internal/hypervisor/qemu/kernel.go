package qemu

import (
	"errors"

	"banger/internal/hypervisor/bzimage"
)

// kernelFile is what QEMU is given for a kernel: the ELF file that the kernel was packed from, which lies beside it and is made
// here when it is first wanted. QEMU reads a packed kernel into memory of its own at every start, 14 MB for Debian's; an
// ELF file it maps, shared by all VMMs, and where a guest is thawed nobody ever looks at it: 9 of 37 ms of a start. A boot takes as
// long either way. A kernel that cannot be unpacked is used as it is.
func (h *Hypervisor) kernelFile(packed string) string {
	h.unpacking.Lock()
	defer h.unpacking.Unlock()
	if path, known := h.unpacked[packed]; known {
		return path
	}
	path, err := bzimage.File(packed)
	if err != nil {
		if !errors.Is(err, bzimage.ErrUnknown) {
			h.log.Warn("a kernel is used as it is", "kernel", packed, "error", err)
		}
		path = packed
	}
	h.unpacked[packed] = path
	return path
}
