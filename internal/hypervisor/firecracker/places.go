package firecracker

import "banger/internal/hypervisor/memory"

// lowMemory is where a guest's memory has its gap for devices, at the guest's address and so in the image's offset, too
// (MMIO32_MEM_START in Firecracker's src/vmm/src/arch/x86_64/layout.rs).
const lowMemory = 3 << 30

// findMemory looks for the guest's memory in its Firecracker.
func (i *instance) findMemory(ps *process) (memory.Region, error) {
	sizes := []int64{min(i.m.MemoryBytes, lowMemory)}
	if rest := i.m.MemoryBytes - lowMemory; rest > 0 {
		sizes = append(sizes, rest)
	}
	return memory.Find(i.h.o.Host, ps.p, sizes, ps.thawed)
}
