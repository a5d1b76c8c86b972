package vm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"

	"banger/api"
	"banger/internal/durable"
	"banger/internal/host"
	"banger/internal/network"
)

// makeDirs makes a VM's directory (the daemon's) and the one in it that belongs to its VMM.
func (s *Service) makeDirs(vm api.VM) error {
	p := s.Paths.VM(vm.ID)
	outer := fs.FileMode(0o700)
	if vm.Runtime.UID != 0 {
		outer = 0o711 // its VMM must reach its own directory through it
	}
	if err := errors.Join(os.MkdirAll(s.Paths.VMs(), outer), os.MkdirAll(p.Dir, outer), os.Chmod(p.Dir, outer), os.MkdirAll(p.Private(), 0o700)); err != nil {
		return err
	}
	if vm.Runtime.UID == 0 {
		return nil
	}
	return os.Chown(p.Private(), vm.Runtime.UID, vm.Runtime.UID)
}

// writeSecret writes a file that only the daemon may read.
func writeSecret(path string, text []byte) error { return durable.WriteFile(path, text, 0o600) }

func removeFiles(paths ...string) {
	for _, p := range paths {
		os.Remove(p) // missing is as good as removed; a directory that is to go is removed whole later
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

// detachNetwork removes a VM's link by its handles and by derived names.
func (s *Service) detachNetwork(ctx context.Context, vm api.VM) error {
	if vm.Spec.Net == api.NetNone {
		return nil
	}
	var ended error
	if p := s.netHelperOf(vm); p != (host.Process{}) {
		ended = s.endProcess(ctx, p)
	}
	return errors.Join(ended, s.Network.Detach(ctx, guestOf(vm)))
}

// netHelperOf is the running process that carries a VM's user-mode network; zero if there is none. The handles say
// which it is, but only a command line that names this VM's socket proves it.
func (s *Service) netHelperOf(vm api.VM) host.Process {
	h, err := s.handles.Get(vm.ID)
	socket := s.Paths.VM(vm.ID).NetSocket()
	if err == nil && s.Host.Alive(h.NetHelper) && s.names(h.NetHelper.PID, socket) {
		return h.NetHelper
	}
	if vm.Spec.Net != api.NetUser {
		return host.Process{}
	}
	pids, err := s.Host.PIDs()
	if err != nil {
		return host.Process{}
	}
	for _, pid := range pids {
		p, ok := s.Host.Identify(pid)
		// The VMM names the socket too: it is told apart by being the VMM.
		if ok && s.names(pid, socket) && p != h.VMM {
			return p
		}
	}
	return host.Process{}
}

// names reports whether a process was given path as an argument of its own.
func (s *Service) names(pid int, path string) bool {
	argv, err := s.Host.CommandLine(pid)
	return err == nil && slices.Contains(argv, path)
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
