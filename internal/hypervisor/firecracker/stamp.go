package firecracker

import (
	"context"
	"strconv"
	"strings"

	"banger/internal/hypervisor"
	"banger/internal/hypervisor/firecracker/oracle"
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
	drives := make([]string, 0, len(m.Drives))
	for _, d := range m.Drives {
		mode := "rw"
		if d.ReadOnly {
			mode = "ro"
		}
		drives = append(drives, d.Serial+":"+mode)
	}
	nic := "none"
	if m.NIC != nil {
		nic = string(m.NIC.Kind)
	}
	return hypervisor.Stamp{
		{Name: "hypervisor", Value: "firecracker"},
		{Name: "version", Value: f.Version},
		{Name: "layout", Value: layout},
		{Name: "host cpu", Value: f.HostCPU},
		{Name: "cpus", Value: strconv.Itoa(m.CPUs)},
		{Name: "memory", Value: strconv.FormatInt(m.MemoryBytes, 10)},
		{Name: "drives", Value: strings.Join(drives, " ")},
		{Name: "network", Value: nic},
	}
}
