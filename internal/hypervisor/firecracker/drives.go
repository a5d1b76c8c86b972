package firecracker

import (
	"context"
	"errors"
	"fmt"

	"banger/internal/disk"
	"banger/internal/hypervisor"
)

// attached is a drive as a device of the host; zero for a drive that is a plain file.
type attached struct {
	disk.Attached
	serial string
}

// deviceName is what disk.Attacher wants a drive's device to be called.
func deviceName(id, serial string) string { return "banger-" + id + "-" + serial }

func (h *Hypervisor) isDevice(d hypervisor.Drive) bool {
	return h.o.Attacher != nil && d.Format == h.o.Attacher.Format()
}

// attach makes devices of the drives that are to be such.
func (h *Hypervisor) attach(ctx context.Context, m *hypervisor.Machine) (_ []attached, err error) {
	out := make([]attached, len(m.Drives))
	defer func() {
		if err != nil {
			err = errors.Join(err, h.detach(context.WithoutCancel(ctx), m))
		}
	}()
	for n, d := range m.Drives {
		switch {
		case h.isDevice(d):
			a, err := h.o.Attacher.Attach(ctx, deviceName(m.ID, d.Serial), d.Path, d.ReadOnly)
			if err != nil {
				return nil, err
			}
			out[n] = attached{a, d.Serial}
		case d.Format != "raw":
			return nil, fmt.Errorf("drive %s has the format %s, which Firecracker does not know", d.Serial, d.Format)
		}
	}
	return out, nil
}

// detach takes away the devices of a machine whose VMM is gone.
func (h *Hypervisor) detach(ctx context.Context, m *hypervisor.Machine) error {
	if h.o.Attacher == nil || h.o.Attacher.CanAttach() != nil {
		return nil //nolint:nilerr // then nothing has ever been attached
	}
	var errs []error
	for _, d := range m.Drives {
		errs = append(errs, h.o.Attacher.Detach(ctx, deviceName(m.ID, d.Serial)))
	}
	return errors.Join(errs...)
}

// disks is how the devices are recorded.
func disks(drives []attached) []hypervisor.Disk {
	var out []hypervisor.Disk
	for _, a := range drives {
		if a.DMName != "" {
			out = append(out, hypervisor.Disk{Serial: a.serial, DMName: a.DMName, DMDev: a.Device, COWLoop: a.COWLoop, BaseLoop: a.BaseLoops})
		}
	}
	return out
}

// Clean removes the jail and the devices of a VMM that is gone.
func (h *Hypervisor) Clean(ctx context.Context, m hypervisor.Machine) error {
	// It is not asked whether there can be jails: the programs may be gone that this one was made for.
	return errors.Join(h.o.Host.RemoveJail(ctx, h.jailOf(&m)), h.detach(ctx, &m))
}

func (i *instance) driveOf(serial string) (int, error) {
	for n, d := range i.m.Drives {
		if d.Serial == serial {
			return n, nil
		}
	}
	return 0, fmt.Errorf("it has no drive %s", serial)
}
