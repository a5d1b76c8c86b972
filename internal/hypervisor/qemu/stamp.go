package qemu

import (
	"context"
	"strconv"

	"banger/internal/hypervisor"
	"banger/internal/hypervisor/vmm"
)

// layout counts the changes to arguments that change which devices a guest has, or where.
const layout = "2"

// Stamp lists what a state depends on.
func (h *Hypervisor) Stamp(ctx context.Context, m hypervisor.Machine) (hypervisor.Stamp, error) {
	f, err := h.oracle.ask(ctx)
	if err != nil {
		return nil, err
	}
	return stampFor(&m, f), nil
}

// stampFor: under emulation the guest's CPU is the same everywhere, but its clock is the host's counter. With KVM it is
// the host's CPU itself.
func stampFor(m *hypervisor.Machine, f *facts) hypervisor.Stamp {
	s := append(hypervisor.Stamp{
		{Name: "hypervisor", Value: "qemu"},
		{Name: "version", Value: f.Version},
		{Name: "machine", Value: machineType(f)},
		{Name: "layout", Value: layout},
		{Name: "accelerator", Value: f.Accel},
		{Name: "cpu", Value: cpuModel(f)},
	}, vmm.Devices(m)...)
	if f.Accel == "kvm" {
		return append(s, hypervisor.Fact{Name: "host cpu", Value: f.HostCPU})
	}
	// Two measurements of one counter differ by a few kHz.
	return append(s, hypervisor.Fact{Name: "tsc mhz", Value: strconv.FormatInt((f.TSCKHz+500)/1000, 10)})
}
