package firecracker

import (
	"context"

	"banger/internal/hypervisor"
	"banger/internal/hypervisor/firecracker/oracle"
	"banger/internal/hypervisor/vmm"
)

// layout counts the changes to what a guest is given that change which devices it has, or where.
const layout = "1"

// Stamp lists what a state depends on: Firecracker promises nothing between versions, nor between CPUs.
func (h *Hypervisor) Stamp(ctx context.Context, m hypervisor.Machine) (hypervisor.Stamp, error) {
	f, err := h.oracle.Ask(ctx)
	if err != nil {
		return nil, err
	}
	return stampFor(&m, f), nil
}

func stampFor(m *hypervisor.Machine, f oracle.Facts) hypervisor.Stamp {
	return append(hypervisor.Stamp{
		{Name: "hypervisor", Value: "firecracker"},
		{Name: "version", Value: f.Version},
		{Name: "layout", Value: layout},
		{Name: "host cpu", Value: f.HostCPU},
	}, vmm.Devices(m)...)
}
