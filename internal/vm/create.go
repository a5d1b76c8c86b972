package vm

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/netip"
	"path/filepath"

	"banger/api"
	"banger/internal/durable"
	"banger/internal/guest/ssh"
	"banger/internal/network"
	"banger/internal/operation"
	"banger/internal/store"
)

// Create reserves a VM: name, address, uid and record, in one transaction and in
// milliseconds. Nothing is made on the host yet. With c.Start it goes on to start it;
// when that fails or is cancelled the VM is gone again, but for one whose guest never became
// ready, which is kept for a look (unless it is to be removed automatically).
func (s *Service) Create(ctx context.Context, c api.VMCreate) (api.VM, *operation.Operation, bool, error) {
	if err := c.Validate(); err != nil {
		return api.VM{}, nil, false, err
	}
	git := c.Git
	c.Git = nil
	request, err := json.Marshal(c)
	if err != nil {
		return api.VM{}, nil, false, err
	}
	c.Git = git
	if c.Snapshot != "" {
		return s.createFrom(ctx, c, string(request))
	}
	spec, err := s.forHost(ctx, s.withDefaults(c.Spec))
	if err != nil {
		return api.VM{}, nil, false, err
	}
	vm := api.VM{ID: s.names.newID(), Name: c.Name, ClientID: c.ClientID, State: api.StateStopped, Spec: spec, Git: c.Git, Pending: []string{}, CreatedAt: s.Now().UTC()}
	if err := s.pinObjects(ctx, &vm); err != nil {
		return api.VM{}, nil, false, err
	}
	if c.Start && !c.Cold {
		if vm, op, ok := s.takePooled(ctx, vm, string(request)); ok {
			return vm, op, true, nil
		}
	}
	s.derive(&vm)
	vm, created, err := s.insert(ctx, vm, string(request))
	if err != nil {
		return api.VM{}, nil, false, err
	}
	s.Records.Wake()
	return s.startCreated(vm, created, c)
}

// startCreated starts a VM that has been reserved, if that is wanted.
func (s *Service) startCreated(vm api.VM, created bool, c api.VMCreate) (api.VM, *operation.Operation, bool, error) {
	if !c.Start {
		return vm, nil, created, nil
	}
	if !created && vm.State != api.StateStopped && vm.State != api.StateSuspended {
		return vm, nil, false, nil
	}
	op := s.Operations.Start("vm.start", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		if created {
			op.Undo("create", func(ctx context.Context) error { return s.remove(ctx, vm.ID) })
		}
		return s.start(ctx, op, vm.ID, api.VMStart{Cold: c.Cold})
	})
	return vm, op, created, nil
}

// insert reserves what a VM needs; where there is no address or uid left, the pool gives one up.
func (s *Service) insert(ctx context.Context, vm api.VM, request string) (api.VM, bool, error) {
	for {
		out, created, err := s.Store.InsertVM(ctx, vm, request, s.reserve)
		if api.CodeOf(err) != api.CodeExhausted {
			return out, created, err
		}
		if given, gerr := s.giveUp(ctx); gerr != nil || !given {
			return out, created, err
		}
	}
}

// withDefaults fills what the user left out.
func (s *Service) withDefaults(spec api.VMSpec) api.VMSpec {
	d := s.Defaults
	spec.Image = or(spec.Image, d.Image)
	spec.Kernel = or(spec.Kernel, d.Kernel)
	spec.CPUs = or(spec.CPUs, d.CPUs)
	spec.MemoryBytes = or(spec.MemoryBytes, d.MemoryBytes)
	spec.DiskBytes = or(spec.DiskBytes, d.DiskBytes)
	spec.RootBytes = or(spec.RootBytes, d.RootBytes)
	spec.Net = or(spec.Net, d.Net)
	spec.IdleSuspendMS = max(0, or(spec.IdleSuspendMS, d.IdleSuspendMS)) // api.IdleNever becomes 0
	labels := map[string]string{}
	maps.Copy(labels, spec.Labels)
	spec.Labels = labels
	return spec
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// derive fills in what follows from the id alone.
func (s *Service) derive(vm *api.VM) {
	p := s.Paths.VM(vm.ID)
	var machineID [16]byte
	s.Random(machineID[:])
	r := &vm.Runtime
	r.MachineID = hex.EncodeToString(machineID[:])
	r.VMDir, r.APISockPath, r.VSockPath, r.LogPath = p.Dir, p.ControlSocket(), p.AgentSocket(), p.Console()
	r.SystemOverlay, r.WorkDiskPath = p.RootDisk(), p.WorkDisk()
	if vm.Spec.Net != api.NetNone {
		r.MAC = network.MACFor(vm.ID).String()
	}
}

// reserve runs inside the transaction that inserts the record.
func (s *Service) reserve(vm *api.VM, taken store.Taken) error {
	if vm.Name == "" {
		vm.Name = s.names.madeUp(taken.Names)
	}
	vm.Runtime.DNSName = vm.Name + ".vm"
	switch vm.Spec.Net {
	case api.NetBridge:
		ip, err := s.Network.AllocateIP(taken.IPs)
		if err != nil {
			return err
		}
		vm.Runtime.GuestIP = ip.String()
	case api.NetUser:
		vm.Runtime.GuestIP = network.UserIP().String()
	}
	if s.UIDBase == 0 {
		return nil
	}
	used := make(map[int]bool, len(taken.UIDs))
	for _, u := range taken.UIDs {
		used[u] = true
	}
	for uid := s.UIDBase; uid < s.UIDBase+s.UIDCount; uid++ {
		if !used[uid] {
			vm.Runtime.UID = uid
			return nil
		}
	}
	return api.Errorf(api.CodeExhausted, "all %d host uids for VMs are taken", s.UIDCount).WithHint("banger vm list --all")
}

// forHost refuses what this host can never run, and chooses the hypervisor where spec names none.
func (s *Service) forHost(ctx context.Context, spec api.VMSpec) (api.VMSpec, error) {
	if err := spec.Validate(); err != nil {
		return spec, err
	}
	b, err := s.Backends.Choose(ctx, spec.Hypervisor, spec.Net)
	if err != nil {
		return spec, err
	}
	spec.Hypervisor = b.Name()
	if most := b.Features.MaxCPUs; most > 0 && spec.CPUs > most {
		return spec, api.Errorf(api.CodeInvalid, "%d CPUs asked for, but %s allows %d here", spec.CPUs, b.Name(), most)
	}
	return spec, s.checkHost(spec)
}

func (s *Service) checkHost(spec api.VMSpec) error {
	if m := s.Memory(); m.Total > 0 && spec.MemoryBytes > m.Total {
		return api.Errorf(api.CodeInvalid, "%d MiB of memory asked for, but this host has %d MiB", spec.MemoryBytes>>20, m.Total>>20)
	}
	if err := s.Network.Check(spec.Net); err != nil {
		return err
	}
	if n := len(filepath.Join(s.Paths.VM("aaaaaaaaaaaa").Private(), "q")); n > 107 {
		return api.Errorf(api.CodeInvalid, "the state directory %s is too long: a socket in it would have a path of %d bytes, and 107 are allowed", s.Paths.State, n)
	}
	return nil
}

// defaultRootBytes is the size of a root disk that nobody asked for; it is thin, so it costs nothing.
const defaultRootBytes = 8 << 30

// pinObjects fixes image and kernel by digest. A built-in one that is not built yet
// is pinned by the start that builds it.
func (s *Service) pinObjects(ctx context.Context, vm *api.VM) error {
	img, err := s.Images.Image(ctx, vm.Spec.Image)
	switch {
	case err == nil:
		vm.Runtime.ImageDigest = img.Digest
		vm.Spec.RootBytes = or(vm.Spec.RootBytes, max(defaultRootBytes, img.SizeBytes))
		if vm.Spec.RootBytes < img.SizeBytes {
			return api.Errorf(api.CodeInvalid, "root size is %d MiB, but image %s has %d MiB", vm.Spec.RootBytes>>20, vm.Spec.Image, img.SizeBytes>>20)
		}
	case !s.Images.CanBuildImage(vm.Spec.Image) || api.CodeOf(err) != api.CodeNotFound:
		return err
	}
	k, err := s.Images.Kernel(ctx, vm.Spec.Kernel)
	switch {
	case err == nil:
		vm.Runtime.KernelDigest = k.Digest
	case !s.Images.CanBuildKernel(vm.Spec.Kernel) || api.CodeOf(err) != api.CodeNotFound:
		return err
	}
	return nil
}

// makeHostKey makes the guest's ssh host key and pins it before anybody can connect.
func (s *Service) makeHostKey(ctx context.Context, vm api.VM) error {
	if vm.Runtime.SSHHostKey != "" {
		return s.pin(vm, vm.Runtime.SSHHostKey)
	}
	private, public, err := ssh.NewHostKey()
	if err != nil {
		return err
	}
	write := durable.WriteFile
	if vm.Spec.AutoRemove { // which no crash of the host leaves
		write = durable.ReplaceFile
	}
	if err := write(s.Paths.VM(vm.ID).HostKey(), private, 0o600); err != nil {
		return err
	}
	if err := s.pin(vm, public); err != nil {
		return err
	}
	_, err = s.Records.update(ctx, vm.ID, func(vm *api.VM) ([]api.Event, error) {
		vm.Runtime.SSHHostKey = public
		return nil, nil
	})
	return err
}

// pin does not pin the key of a clone that nobody can name yet.
func (s *Service) pin(vm api.VM, public string) error {
	if vm.State == api.StatePooled {
		return nil
	}
	return s.KnownHosts.Pin(hostNames(vm), public)
}

// hostNames are the names under which a VM's host key is pinned.
func hostNames(vm api.VM) []string {
	names := []string{vm.Runtime.DNSName}
	if a, err := netip.ParseAddr(vm.Runtime.GuestIP); err == nil && vm.Spec.Net == api.NetBridge {
		names = append(names, a.String())
	}
	return names
}
