package vm

import (
	"context"
	"net/netip"
	"os"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/durable"
	"banger/internal/guest/ssh"
)

// personality is everything that makes this guest this guest.
func (u *bringUp) personality(vm api.VM) (agentapi.Personalise, error) {
	p := agentapi.Personalise{
		Entropy: make([]byte, 64), Hostname: vm.Name, MachineID: vm.Runtime.MachineID,
		WorkDisk: &agentapi.WorkDisk{Device: agentapi.SerialWork}, SSHHostKeyPub: vm.Runtime.SSHHostKey,
	}
	if vm.State == api.StatePooled {
		p.Hostname = anonymous
	}
	u.random(p.Entropy)
	var err error
	if p.SSHHostKey, err = os.ReadFile(u.paths.VM(vm.ID).HostKey()); err != nil {
		return p, err
	}
	key, err := ssh.EnsureKey(u.paths.SSHKey())
	if err != nil {
		return p, err
	}
	p.AuthorizedKeys, p.Git = []string{key}, vm.Git
	if vm.Spec.Net != api.NetNone {
		p.Network = u.network.GuestConfig(guestOf(vm))
	}
	return p, nil
}

// renewal is what a guest needs that has stood still, and is who it was. Where that was for a start, the host's logins are mended.
func (u *bringUp) renewal(vm api.VM, keys []string) agentapi.Personalise {
	p := agentapi.Personalise{Thawed: agentapi.ThawedResume, Entropy: make([]byte, 64)}
	u.random(p.Entropy)
	if vm.State == api.StateStarting {
		p.AuthorizedKeys = keys
	}
	if vm.Spec.Net != api.NetNone {
		p.Network = u.network.GuestConfig(guestOf(vm))
	}
	return p
}

// christening is what a guest still needs that has all but a name.
func (u *bringUp) christening(name string) agentapi.Personalise {
	p := agentapi.Personalise{Entropy: make([]byte, 64), Hostname: name, Time: u.now()}
	u.random(p.Entropy)
	return p
}

// anonymous is the host name of a guest that is nobody's.
const anonymous = "localhost"

// makeHostKey makes the guest's ssh host key and pins it before anybody can connect.
func (u *bringUp) makeHostKey(ctx context.Context, vm api.VM) error {
	if vm.Runtime.SSHHostKey != "" {
		return u.pin(vm, vm.Runtime.SSHHostKey)
	}
	private, public, err := ssh.NewHostKey()
	if err != nil {
		return err
	}
	write := durable.WriteFile
	if vm.Spec.AutoRemove { // which no crash of the host leaves
		write = durable.ReplaceFile
	}
	if err := write(u.paths.VM(vm.ID).HostKey(), private, 0o600); err != nil {
		return err
	}
	if err := u.pin(vm, public); err != nil {
		return err
	}
	_, err = u.records.update(ctx, vm.ID, func(vm *api.VM) ([]api.Event, error) {
		vm.Runtime.SSHHostKey = public
		return nil, nil
	})
	return err
}

// pin does not pin the key of a clone that nobody can name yet.
func (u *bringUp) pin(vm api.VM, public string) error {
	if vm.State == api.StatePooled {
		return nil
	}
	return u.knownHosts.Pin(hostNames(vm), public)
}

// hostNames are the names under which a VM's host key is pinned.
func hostNames(vm api.VM) []string {
	names := []string{vm.Runtime.DNSName}
	if a, err := netip.ParseAddr(vm.Runtime.GuestIP); err == nil && vm.Spec.Net == api.NetBridge {
		names = append(names, a.String())
	}
	return names
}
