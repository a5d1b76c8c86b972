package vm

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/backend"
	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/image"
	"banger/internal/network"
	"banger/internal/template"
)

// machines says what a VM's machine is made of, and finds what it has on the host by names that follow from its id.
type machines struct {
	host     host.Host
	backends backend.Set
	images   *image.Service
	paths    config.Paths
}

// find looks for a VM's VMM without its process id; zero when there is none.
func (ms *machines) find(ctx context.Context, vm api.VM) host.Process {
	if vm.Runtime.KernelDigest == "" {
		return host.Process{}
	}
	m, err := ms.of(ctx, vm)
	if err != nil {
		return host.Process{}
	}
	p, _ := ms.backend(vm).Hypervisor.Find(ctx, m)
	return p
}

// of is what the hypervisor needs to run this VM, and to find it again.
func (ms *machines) of(ctx context.Context, vm api.VM) (hypervisor.Machine, error) {
	b, err := ms.backends.Get(vm.Spec.Hypervisor)
	if err != nil {
		return hypervisor.Machine{}, err
	}
	kernel, err := ms.images.KernelFiles(vm.Runtime.KernelDigest)
	if err != nil {
		return hypervisor.Machine{}, err
	}
	initramfs, err := ms.images.Initramfs(ctx, vm.Runtime.KernelDigest)
	if err != nil {
		return hypervisor.Machine{}, err
	}
	p := ms.paths.VM(vm.ID)
	m := hypervisor.Machine{
		ID: vm.ID, Dir: p.Private(), UID: vm.Runtime.UID, GID: vm.Runtime.UID,
		CPUs: vm.Spec.CPUs, MemoryBytes: vm.Spec.MemoryBytes,
		Kernel: kernel.Vmlinuz, Initramfs: initramfs, Cmdline: cmdline,
		Drives: []hypervisor.Drive{
			{Serial: agentapi.SerialRoot, Path: vm.Runtime.SystemOverlay, Format: b.Driver(vm.Runtime.RootLayerID).Format()},
			{Serial: agentapi.SerialModules, Path: kernel.ModulesDisk, Format: "raw", ReadOnly: true},
			{Serial: agentapi.SerialWork, Path: vm.Runtime.WorkDiskPath, Format: b.Driver(vm.Runtime.WorkLayerID).Format()},
		},
	}
	if vm.Spec.Net != api.NetNone {
		m.NIC = &hypervisor.NIC{Kind: nicKind(vm.Spec.Net), MAC: vm.Runtime.MAC, TapName: guestOf(vm).Tap}
	}
	return m, nil
}

// cmdline is for every guest: udev leaves eth0 its name, and the console holds what matters.
const cmdline = "quiet net.ifnames=0"

func nicKind(k api.NetKind) hypervisor.NICKind {
	if k == api.NetBridge {
		return hypervisor.NICTap
	}
	return hypervisor.NICSocket
}

func guestOf(vm api.VM) network.Guest {
	g := network.Guest{ID: vm.ID, Name: vm.Name, Kind: vm.Spec.Net, MAC: vm.Runtime.MAC, UID: vm.Runtime.UID}
	if vm.State == api.StatePooled {
		g.Name = "" // it is nobody's
	}
	g.SetIP(vm.Runtime.GuestIP)
	if vm.Spec.Net == api.NetBridge {
		g.Tap = network.TapName(vm.ID)
	}
	return g
}

// backend is the one that a VM was created with. A VM of one that this daemon does not know is refused by
// of, and its files are deleted as any are.
func (ms *machines) backend(vm api.VM) backend.Backend {
	b, err := ms.backends.Get(vm.Spec.Hypervisor)
	if err != nil {
		all := ms.backends.All()
		return all[len(all)-1]
	}
	return b
}

// templateWant is the template that a VM would be thawed from.
func (ms *machines) templateWant(ctx context.Context, vm api.VM) (template.Want, error) {
	img, err := ms.images.Image(ctx, vm.Runtime.ImageDigest)
	if err != nil {
		return template.Want{}, err
	}
	m, err := ms.of(ctx, vm)
	if err != nil {
		return template.Want{}, err
	}
	return template.Want{
		Image: img, KernelDigest: vm.Runtime.KernelDigest, Root: ms.images.RootPath(img.Digest),
		Modules: m.Drives[1].Path, Kernel: m.Kernel, Initramfs: m.Initramfs, Cmdline: m.Cmdline,
		CPUs: vm.Spec.CPUs, MemoryBytes: vm.Spec.MemoryBytes, DiskBytes: vm.Spec.DiskBytes, RootBytes: vm.Spec.RootBytes,
		Net: vm.Spec.Net, Hypervisor: vm.Spec.Hypervisor,
	}, nil
}

// remains is what of a VM's machine counts when its VMM is gone.
func (ms *machines) remains(id string, uid int) hypervisor.Machine {
	m := hypervisor.Machine{ID: id, Dir: ms.paths.VM(id).Private(), UID: uid, GID: uid}
	for _, serial := range []string{agentapi.SerialRoot, agentapi.SerialModules, agentapi.SerialWork} {
		m.Drives = append(m.Drives, hypervisor.Drive{Serial: serial})
	}
	return m
}

// makeDirs makes a VM's directory (the daemon's) and the one in it that belongs to its VMM.
func (ms *machines) makeDirs(vm api.VM) error {
	p := ms.paths.VM(vm.ID)
	outer := fs.FileMode(0o700)
	if vm.Runtime.UID != 0 {
		outer = 0o711 // its VMM must reach its own directory through it
	}
	// The umask is 077: the modes are set apart.
	for _, dir := range []string{ms.paths.VMs(), p.Dir} {
		if err := errors.Join(os.MkdirAll(dir, outer), os.Chmod(dir, outer)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(p.Private(), 0o700); err != nil {
		return err
	}
	if vm.Runtime.UID == 0 {
		return nil
	}
	return ms.host.Give(p.Private(), vm.Runtime.UID)
}
