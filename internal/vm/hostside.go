package vm

import (
	"context"
	"os"

	"banger/api"
	"banger/internal/durable"
	"banger/internal/network"
)

// writeSecret writes a file that only the daemon may read.
func writeSecret(path string, text []byte) error { return durable.WriteFile(path, text, 0o600) }

func removeFiles(paths ...string) {
	for _, p := range paths {
		_ = os.Remove(p) // missing is as good as removed; a directory that is to go is removed whole later
	}
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
