package firecracker

import (
	"bytes"
	"errors"

	"banger/internal/hypervisor/memory"
)

// lowMemory is where a guest's memory has its gap for devices, at the guest's address and so in the image's offset, too
// (MMIO32_MEM_START in Firecracker's src/vmm/src/arch/x86_64/layout.rs).
const lowMemory = 3 << 30

// findMemory looks for the guest's memory in its Firecracker.
func (i *instance) findMemory(ps *process) (memory.Region, error) {
	sizes := []int64{min(i.m.MemoryBytes, lowMemory)}
	if rest := i.m.MemoryBytes - lowMemory; rest > 0 {
		sizes = append(sizes, rest)
	}
	r, err := memory.Find(i.h.o.Host, ps.p, sizes, ps.thawed)
	if err == nil && !ps.thawed && len(sizes) > 1 {
		err = isLow(r)
	}
	return r, err
}

// cmdlineAt is where Firecracker puts the kernel's command line (CMDLINE_START, in the same file). Linux keeps its hands off the first megabyte
// (reserve_real_mode in its arch/x86/realmode/init.c), so it stays there.
const cmdlineAt = 0x20000

// isLow makes sure that a region begins with the guest's low memory.
func isLow(r memory.Region) error {
	page := make([]byte, memory.PageSize)
	if err := r.Read([]memory.Run{{Offset: cmdlineAt, Length: memory.PageSize}}, page); err != nil {
		return err
	}
	if !bytes.Contains(page, []byte(" "+consoleParam+" ")) {
		return errors.New("the guest's memory is not where it is expected in its VMM")
	}
	return nil
}
