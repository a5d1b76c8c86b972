// Package firecracker runs guests on Firecracker, each under its jailer: a uid, a root directory and a cgroup of its
// own, Firecracker's own seccomp filters on. It owns the client of Firecracker's API, the names of things in a jail, and the host's
// end of the guest's vsock. Only daemon (which builds it) and tests import it; everybody else knows package hypervisor.
//
// Firecracker has no link state, no power-off and no reboot: its process ends where a guest reboots, and stays where a
// guest is off. What the contract promises of these is made up for here: see exit.go, console.go and SetLink.
package firecracker

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/firecracker/oracle"
	"banger/internal/hypervisor/kvm"
	"banger/internal/hypervisor/memory"
)

// Options are what New needs. Host, Paths, Log and KVM must be set.
type Options struct {
	Host  host.Host
	Paths config.Paths
	Log   *slog.Logger
	// Binary and Jailer are names or paths; empty means firecracker, and the jailer that belongs to it.
	Binary, Jailer string
	KVM            *kvm.Device
	// Attacher makes devices of the drives of its format; nil where there are none.
	Attacher disk.Attacher
}

// Hypervisor starts Firecrackers and finds them again.
type Hypervisor struct {
	o      Options
	oracle *oracle.Oracle
	vault  *memory.Vault
}

var _ hypervisor.Hypervisor = (*Hypervisor)(nil)

// New builds the hypervisor; nothing runs before Features or Start is called.
func New(o Options) *Hypervisor {
	if o.Binary == "" {
		o.Binary = "firecracker"
	}
	oo := oracle.Options{Host: o.Host, Binary: o.Binary, Jailer: o.Jailer, KVM: o.KVM, File: o.Paths.FirecrackerVerdict()}
	if o.Attacher != nil {
		oo.CanAttach = o.Attacher.CanAttach
	}
	return &Hypervisor{o: o, oracle: oracle.New(oo), vault: &memory.Vault{}}
}

// Name is "firecracker".
func (h *Hypervisor) Name() string { return "firecracker" }

// The files of a VMM in its Machine.Dir; config.VMPaths names the same.
func consoleLog(m *hypervisor.Machine) string  { return filepath.Join(m.Dir, "console.log") }
func vmmLog(m *hypervisor.Machine) string      { return filepath.Join(m.Dir, "vmm.log") }
func ownLog(m *hypervisor.Machine) string      { return filepath.Join(m.Dir, "firecracker.log") }
func metricsFile(m *hypervisor.Machine) string { return filepath.Join(m.Dir, "metrics") }

func (h *Hypervisor) wrap(m *hypervisor.Machine, what string, err error) error {
	return fmt.Errorf("cannot %s the VMM of %s: %w", what, m.ID, err)
}

// maxCPUs is the most that Firecracker gives a guest.
const maxCPUs = 32

// Features says whether this host can run it.
func (h *Hypervisor) Features(ctx context.Context) (hypervisor.Features, error) {
	f, err := h.oracle.Ask(ctx)
	if err != nil {
		return hypervisor.Features{}, err
	}
	return hypervisor.Features{Accel: "kvm", AccelReason: f.Reason, Caveat: f.Caveat, Version: f.Version, MaxCPUs: maxCPUs, TapOnly: true}, nil
}

// program is the name that jails of ours are under. It does not ask whether the program can be used: what it has left behind has to be found,
// even when it is gone.
func (h *Hypervisor) program() string {
	path, err := h.o.Host.LookPath(h.o.Binary)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		path = h.o.Binary
	}
	return filepath.Base(path)
}
