package qemu

import (
	"context"
	"fmt"

	"banger/internal/hypervisor/memory"
	"banger/internal/hypervisor/qemu/qmp"
)

// places is where in QEMU's memory the guest's is. Nothing of it ever moves.
type places struct {
	guest, firmware memory.Region
	firmwareAt      uint64 // the guest's address
}

// maxFirmware bounds what is read of it: QEMU's for this machine has 64 KiB.
const maxFirmware = 4 << 20

// findMemory asks QEMU once, and the kernel whether what it says can be. It is called with the turn taken.
func (i *instance) findMemory(ctx context.Context, c *qmp.Client) (*places, error) {
	if i.places != nil {
		return i.places, nil
	}
	at := c.BeginHostAddress(0)
	from, to, err := c.Firmware(ctx)
	if err != nil {
		return nil, err
	}
	firmwareAt := c.BeginHostAddress(from)
	p := &places{firmwareAt: from}
	base, err := at.HostAddress(ctx)
	if err != nil {
		return nil, err
	}
	if p.guest, err = memory.In(i.h.host, i.p, base, i.m.MemoryBytes); err != nil {
		return nil, err
	}
	if err := readable(p.guest); err != nil {
		return nil, err
	}
	size := int64(to - from + 1)
	if size > maxFirmware || size%memory.PageSize != 0 {
		return nil, fmt.Errorf("QEMU tells of %d bytes of firmware", size)
	}
	if base, err = firmwareAt.HostAddress(ctx); err != nil {
		return nil, err
	}
	if p.firmware, err = memory.In(i.h.host, i.p, base, size); err != nil {
		return nil, err
	}
	i.places = p
	return p, nil
}
