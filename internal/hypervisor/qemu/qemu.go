// Package qemu runs guests on QEMU's microvm machine, with KVM where that really
// works and under software emulation elsewhere. It owns QEMU's command line, the QMP
// connection, the host's end of the agent's port and the verdict on KVM. Only daemon
// (which builds it) and tests import it; everybody else knows package hypervisor.
package qemu

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/kvm"
	"banger/internal/hypervisor/memory"
	"banger/internal/hypervisor/vmm"
)

// Options are what New needs. Host, Paths and Log must be set.
type Options struct {
	Host  host.Host
	Paths config.Paths
	Log   *slog.Logger
	// Binary is a name or a path; empty means qemu-system-x86_64.
	Binary string
	// KVM is what the verdict on it is made of; nil means this host's.
	KVM *kvm.Device
	// Accel is "kvm" or "tcg" to decide without a probe; empty means probe.
	Accel string
}

// Hypervisor starts QEMUs and finds them again.
type Hypervisor struct {
	host   host.Host
	log    *slog.Logger
	binary string
	epoch  func() uint64
	oracle *oracle
	vault  *memory.Vault
	paths  config.Paths
	// launched: QEMU is started through the launcher.
	launched bool

	// unpacking protects unpacked: what each kernel is started from, by its path.
	unpacking sync.Mutex
	unpacked  map[string]string
}

var _ hypervisor.Hypervisor = (*Hypervisor)(nil)

// New builds the hypervisor; nothing runs before Features or Start is called.
func New(o Options) *Hypervisor {
	if o.Binary == "" {
		o.Binary = "qemu-system-x86_64"
	}
	if o.KVM == nil {
		o.KVM = kvm.New()
	}
	return &Hypervisor{
		host: o.Host, log: o.Log, binary: o.Binary, epoch: vmm.RandomEpoch,
		oracle: newOracle(o), vault: &memory.Vault{}, paths: o.Paths, unpacked: map[string]string{},
		launched: runtime.GOARCH == "amd64" && os.Geteuid() != 0 && yamaScope() == "1",
	}
}

// Name is "qemu".
func (h *Hypervisor) Name() string { return "qemu" }

// Features probes this host, or answers what the probe of this boot found.
func (h *Hypervisor) Features(ctx context.Context) (hypervisor.Features, error) {
	f, err := h.oracle.ask(ctx)
	if err != nil {
		return hypervisor.Features{}, err
	}
	return hypervisor.Features{
		Accel: f.Accel, AccelReason: f.Reason, AccelHint: f.Hint,
		Version: f.Version, MaxCPUs: f.MaxCPUs,
	}, nil
}

// The files of a VMM in its Machine.Dir; config.VMPaths names the same.
func controlSocket(m *hypervisor.Machine) string { return filepath.Join(m.Dir, "q") }
func agentSocket(m *hypervisor.Machine) string   { return filepath.Join(m.Dir, "a") }
func consoleLog(m *hypervisor.Machine) string    { return filepath.Join(m.Dir, "console.log") }
func vmmLog(m *hypervisor.Machine) string        { return filepath.Join(m.Dir, "vmm.log") }

// identifies is the argument by which a VMM's command line shows whose it is.
func identifies(m *hypervisor.Machine) string {
	return "file,id=console,path=" + escape(consoleLog(m)) + ",append=on"
}

func (h *Hypervisor) wrap(m *hypervisor.Machine, what string, err error) error {
	return fmt.Errorf("cannot %s the VMM of %s: %w", what, m.ID, err)
}
