package vm

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"banger/api"
	"banger/internal/durable"
	"banger/internal/network"
)

// makeDirs makes a VM's directory (the daemon's) and the one in it that belongs to its VMM.
func (s *Service) makeDirs(vm api.VM) error {
	p := s.Paths.VM(vm.ID)
	outer := fs.FileMode(0o700)
	if vm.Runtime.UID != 0 {
		outer = 0o711 // its VMM must reach its own directory through it
	}
	// The umask is 077: the modes are set apart.
	for _, dir := range []string{s.Paths.VMs(), p.Dir} {
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
	return s.Host.Give(p.Private(), vm.Runtime.UID)
}

// writeSecret writes a file that only the daemon may read.
func writeSecret(path string, text []byte) error { return durable.WriteFile(path, text, 0o600) }

func removeFiles(paths ...string) {
	for _, p := range paths {
		_ = os.Remove(p) // missing is as good as removed; a directory that is to go is removed whole later
	}
}

// removeSockets removes what an ended VMM left, so that nobody connects to nothing.
func (s *Service) removeSockets(vm api.VM) {
	p := s.Paths.VM(vm.ID)
	removeFiles(p.ControlSocket(), p.AgentSocket(), p.NetSocket())
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// joinNetwork lets a guest that has confirmed its MAC and address onto the bridge.
func (s *Service) joinNetwork(ctx context.Context, vm api.VM) error {
	return s.Network.Join(ctx, guestOf(vm))
}

// detachNetwork removes a VM's link by derived names, whatever its handles say.
func (s *Service) detachNetwork(ctx context.Context, vm api.VM) error {
	if vm.Spec.Net == api.NetNone {
		return nil
	}
	return s.Network.Detach(ctx, guestOf(vm))
}

// setNetwork tells the network which guests are to be on the bridge.
func (s *Service) setNetwork(ctx context.Context) error {
	vms, err := s.Store.VMs(ctx)
	if err != nil {
		return err
	}
	guests := []network.Guest{}
	for _, vm := range vms {
		if vm.Spec.Net == api.NetBridge && vm.State != api.StateStopped && vm.State != api.StateDeleting {
			g := guestOf(vm)
			g.Joined = vm.Ready
			guests = append(guests, g)
		}
	}
	return s.Network.Set(ctx, guests)
}
