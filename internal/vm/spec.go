package vm

import (
	"cmp"
	"context"
	"encoding/hex"
	"maps"
	"path/filepath"

	"banger/api"
	"banger/internal/backend"
	"banger/internal/config"
	"banger/internal/image"
	"banger/internal/network"
	"banger/internal/store"
	"banger/internal/template"
)

// specs makes of what was asked for the record of a VM that this host can run.
type specs struct {
	backends backend.Set
	images   *image.Service
	network  *network.Network
	names    *names
	paths    config.Paths
	defaults api.VMSpec
	memory   func() template.Memory
	random   func([]byte)
	// The host uids for VMMs; a count of 0 runs them under the daemon's own.
	uidBase, uidCount int
}

// withDefaults fills what the user left out.
func (sp *specs) withDefaults(spec api.VMSpec) api.VMSpec {
	d := sp.defaults
	spec.Image = cmp.Or(spec.Image, d.Image)
	spec.Kernel = cmp.Or(spec.Kernel, d.Kernel)
	spec.CPUs = cmp.Or(spec.CPUs, d.CPUs)
	spec.MemoryBytes = cmp.Or(spec.MemoryBytes, d.MemoryBytes)
	spec.DiskBytes = cmp.Or(spec.DiskBytes, d.DiskBytes)
	spec.RootBytes = cmp.Or(spec.RootBytes, d.RootBytes)
	spec.Net = cmp.Or(spec.Net, d.Net)
	spec.IdleSuspendMS = max(0, cmp.Or(spec.IdleSuspendMS, d.IdleSuspendMS)) // api.IdleNever becomes 0
	labels := map[string]string{}
	maps.Copy(labels, spec.Labels)
	spec.Labels = labels
	return spec
}

// derive fills in what follows from the id alone.
func (sp *specs) derive(vm *api.VM) {
	p := sp.paths.VM(vm.ID)
	var machineID [16]byte
	sp.random(machineID[:])
	r := &vm.Runtime
	r.MachineID = hex.EncodeToString(machineID[:])
	r.VMDir, r.APISockPath, r.VSockPath, r.LogPath = p.Dir, p.ControlSocket(), p.AgentSocket(), p.Console()
	r.SystemOverlay, r.WorkDiskPath = p.RootDisk(), p.WorkDisk()
	if vm.Spec.Net != api.NetNone {
		r.MAC = network.MACFor(vm.ID).String()
	}
}

// reserve runs inside the transaction that inserts the record.
func (sp *specs) reserve(vm *api.VM, taken store.Taken) error {
	if vm.Name == "" {
		vm.Name = sp.names.madeUp(taken.Names)
	}
	vm.Runtime.DNSName = vm.Name + ".vm"
	switch vm.Spec.Net {
	case api.NetBridge:
		ip, err := sp.network.AllocateIP(taken.IPs)
		if err != nil {
			return err
		}
		vm.Runtime.GuestIP = ip.String()
	case api.NetUser:
		vm.Runtime.GuestIP = network.UserIP().String()
	}
	if sp.uidBase == 0 {
		return nil
	}
	used := make(map[int]bool, len(taken.UIDs))
	for _, u := range taken.UIDs {
		used[u] = true
	}
	for uid := sp.uidBase; uid < sp.uidBase+sp.uidCount; uid++ {
		if !used[uid] {
			vm.Runtime.UID = uid
			return nil
		}
	}
	return api.Errorf(api.CodeExhausted, "all %d host uids for VMs are taken", sp.uidCount).WithHint("banger vm list --all")
}

// forHost refuses what this host can never run, and chooses the hypervisor where spec names none.
func (sp *specs) forHost(ctx context.Context, spec api.VMSpec) (api.VMSpec, error) {
	if err := spec.Validate(); err != nil {
		return spec, err
	}
	b, err := sp.backends.Choose(ctx, spec.Hypervisor, spec.Net)
	if err != nil {
		return spec, err
	}
	spec.Hypervisor = b.Name()
	if most := b.Features.MaxCPUs; most > 0 && spec.CPUs > most {
		return spec, api.Errorf(api.CodeInvalid, "%d CPUs asked for, but %s allows %d here", spec.CPUs, b.Name(), most)
	}
	return spec, sp.checkHost(spec)
}

func (sp *specs) checkHost(spec api.VMSpec) error {
	if m := sp.memory(); m.Total > 0 && spec.MemoryBytes > m.Total {
		return api.Errorf(api.CodeInvalid, "%d MiB of memory asked for, but this host has %d MiB", spec.MemoryBytes>>20, m.Total>>20)
	}
	if err := sp.network.Check(spec.Net); err != nil {
		return err
	}
	if n := len(filepath.Join(sp.paths.VM("aaaaaaaaaaaa").Private(), "q")); n > 107 {
		return api.Errorf(api.CodeInvalid, "the state directory %s is too long: a socket in it would have a path of %d bytes, and 107 are allowed", sp.paths.State, n)
	}
	return nil
}

// defaultRootBytes is the size of a root disk that nobody asked for; it is thin, so it costs nothing.
const defaultRootBytes = 8 << 30

// pinObjects fixes image and kernel by digest. A built-in one that is not built yet
// is pinned by the start that builds it.
func (sp *specs) pinObjects(ctx context.Context, vm *api.VM) error {
	img, err := sp.images.Image(ctx, vm.Spec.Image)
	switch {
	case err == nil:
		vm.Runtime.ImageDigest = img.Digest
		vm.Spec.RootBytes = cmp.Or(vm.Spec.RootBytes, max(defaultRootBytes, img.SizeBytes))
		if vm.Spec.RootBytes < img.SizeBytes {
			return api.Errorf(api.CodeInvalid, "root size is %d MiB, but image %s has %d MiB", vm.Spec.RootBytes>>20, vm.Spec.Image, img.SizeBytes>>20)
		}
	case !sp.images.CanBuildImage(vm.Spec.Image) || api.CodeOf(err) != api.CodeNotFound:
		return err
	}
	k, err := sp.images.Kernel(ctx, vm.Spec.Kernel)
	switch {
	case err == nil:
		vm.Runtime.KernelDigest = k.Digest
	case !sp.images.CanBuildKernel(vm.Spec.Kernel) || api.CodeOf(err) != api.CodeNotFound:
		return err
	}
	return nil
}
