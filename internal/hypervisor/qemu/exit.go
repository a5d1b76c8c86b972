package qemu

import (
	"strings"

	"banger/internal/hypervisor/vmm"
)

// program is the VMM's name, for people.
const program = "QEMU"

// tailFrom begins to read QEMU's stderr.
func tailFrom(path string) *vmm.LogTail {
	return vmm.TailFrom(path, func(s string) string {
		if _, rest, ok := strings.Cut(s, "qemu-system-x86_64: "); ok {
			s = rest
		}
		// QEMU on a TCG host says this of CPU features that no guest of ours needs.
		if strings.Contains(s, "TCG doesn't support requested feature") {
			return ""
		}
		return s
	})
}
