package daemon

import (
	"log/slog"

	"banger/api"
	"banger/internal/backend"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/disk/clone"
	"banger/internal/disk/dmsnapshot"
	"banger/internal/disk/qcow2"
	"banger/internal/host"
	"banger/internal/hypervisor/firecracker"
	"banger/internal/hypervisor/kvm"
	"banger/internal/hypervisor/qemu"
)

// backends are all ways to run guests, the better ones first.
func backends(cfg *config.Config, h host.Host, log *slog.Logger, o Options) (backend.Set, error) {
	if o.Hypervisors == nil {
		device := kvm.New()
		standard := cfg.Hypervisor
		if cfg.Accel == "tcg" && standard == api.HypervisorAuto { // which Firecracker has not
			standard = "qemu"
		}
		return backend.NewSet(standard, withFirecracker(cfg, h, log, device), withQEMU(cfg, h, log, device)), nil
	}
	replaced, err := o.Hypervisors(cfg, h, log)
	var all []backend.Backend
	for _, r := range replaced {
		all = append(all, backend.Backend{Hypervisor: r, Disks: disks(cfg), Overlays: qcow2.Driver{}})
	}
	return backend.NewSet(cfg.Hypervisor, all...), err
}

func withFirecracker(cfg *config.Config, h host.Host, log *slog.Logger, device *kvm.Device) backend.Backend {
	jailer := cfg.JailerBin
	if jailer == "auto" {
		jailer = ""
	}
	disks := dmsnapshot.New(dmsnapshot.Options{Host: h, Log: log})
	return backend.Backend{
		Hypervisor: firecracker.New(firecracker.Options{
			Host: h, Paths: cfg.Paths, Log: log, Binary: cfg.FirecrackerBin, Jailer: jailer, KVM: device, Attacher: disks,
		}),
		Disks: disks, Overlays: disks,
	}
}

func withQEMU(cfg *config.Config, h host.Host, log *slog.Logger, device *kvm.Device) backend.Backend {
	accel := cfg.Accel
	if accel == "auto" {
		accel = ""
	}
	return backend.Backend{
		Hypervisor: qemu.New(qemu.Options{Host: h, Paths: cfg.Paths, Log: log, Binary: cfg.QEMUBinary, KVM: device, Accel: accel}),
		Disks:      disks(cfg), Overlays: qcow2.Driver{},
	}
}

func disks(cfg *config.Config) disk.Driver {
	if cfg.DiskDriver == "clone" {
		return clone.Driver{}
	}
	return qcow2.Driver{}
}
