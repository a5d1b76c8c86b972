// Package hypervisor is the contract between banger and the programs that run
// virtual machines. qemu/ implements it for real, fake/ for scenario scripts only;
// both pass hypervisortest/. It may be imported by template, vm and doctor.
package hypervisor

import (
	"context"
	"net"
	"os"
	"time"

	"banger/internal/host"
)

// Machine is everything a VMM needs to run one guest. It holds no policy: paths
// exist, sizes are checked, the network is prepared.
type Machine struct {
	// ID is the VM's, for names and logs.
	ID string
	// Dir is a directory of the VMM's own (owner UID, mode 0700) for sockets and logs.
	// Socket names in it are one letter, since a socket's path may have 107 bytes only.
	Dir string
	// UID and GID are what the VMM runs under; 0 means the daemon's own.
	UID, GID int
	CPUs     int
	// MemoryBytes is a multiple of 1 MiB.
	MemoryBytes int64
	Kernel      string
	Initramfs   string
	// Cmdline is banger's part; the hypervisor adds what its machine type needs.
	Cmdline string
	// Drives become virtio-blk devices in this order.
	Drives []Drive
	// NIC is nil for a guest without a network device.
	NIC *NIC
}

// Drive is a virtio block device.
type Drive struct {
	// Serial is what the guest finds it by; see agentapi.
	Serial   string
	Path     string
	Format   string // "raw" or "qcow2"
	ReadOnly bool
}

// NIC is a virtio network device. Exactly one of Tap and Socket is set.
type NIC struct {
	MAC string
	// Tap is an open tap descriptor; Start hands it to the VMM and leaves it open for the caller to close.
	Tap *os.File
	// Socket is the path of a unix stream socket with length-prefixed frames (passt).
	Socket string
}

// Features are what a hypervisor can do on this host, asked before anything is created.
type Features struct {
	// Accel is "kvm", "tcg", or "fake"; AccelReason says why in a clause, AccelHint is
	// the command that would mend a "tcg" (may be empty).
	Accel       string
	AccelReason string
	AccelHint   string
	// Version is the VMM's exact version, distribution's revision included.
	Version string
	// MaxCPUs a guest may have.
	MaxCPUs int
}

// Hypervisor starts VMMs and finds them again. Safe for concurrent use.
type Hypervisor interface {
	Name() string
	// Features probes once per host boot and answers from memory after that. The
	// error has code missing_dependency when the VMM is not installed.
	Features(ctx context.Context) (Features, error)
	// Start launches the VMM. record is called with the process as soon as it exists and
	// before the guest runs; if record fails the process is ended. The VMM outlives
	// ctx and the daemon. On error nothing is left running.
	Start(ctx context.Context, m Machine, record func(host.Process) error) (Instance, error)
	// Adopt takes up a VMM that an earlier daemon started. It fails when p is not alive,
	// or is not the VMM of m (by its command line and socket), and then changes nothing.
	Adopt(ctx context.Context, m Machine, p host.Process) (Instance, error)
	// Find looks for a running VMM of m when its process id is not known.
	Find(ctx context.Context, m Machine) (host.Process, bool)
}

// Instance is one running VMM. Safe for concurrent use.
type Instance interface {
	Process() host.Process
	// DialGuest opens a new stream to the agent, waiting for the agent until ctx ends.
	// It finds the agent again after a reboot of the guest or a restart of the agent. The error
	// has code not_ready when ctx ended first, conflict when the VMM is gone.
	DialGuest(ctx context.Context) (net.Conn, error)
	// Kill ends the VMM at once, like pulling the plug, and returns when it is gone.
	Kill(ctx context.Context) error
	// GrowDrive tells the running guest that a drive has the new, larger size.
	GrowDrive(ctx context.Context, serial string, bytes int64) error
	// Events delivers what happens to the guest, in order; closed when the VMM is gone, and
	// (then without an EventExited) by Detach. The caller reads until it is closed.
	Events() <-chan Event
	// DriveStats are bytes since the VMM's start, by drive serial.
	DriveStats(ctx context.Context) (map[string]DriveStats, error)
	// Detach lets go of the VMM without touching it: the daemon is going away.
	Detach()
}

// DriveStats counts a drive's traffic.
type DriveStats struct{ ReadBytes, WriteBytes int64 }

// EventKind is what happened.
type EventKind string

// The events. The last one is EventExited.
const (
	EventReset    EventKind = "reset"    // the guest reboots in place
	EventShutdown EventKind = "shutdown" // the guest powers off; EventExited follows
	EventPaused   EventKind = "paused"   // the VMM stopped the guest; Detail: why ("no space left on the host")
	EventResumed  EventKind = "resumed"
	EventExited   EventKind = "exited" // the VMM is gone; Detail: why, as far as known
)

// Event is something that happened to a guest.
type Event struct {
	Kind   EventKind
	Detail string
	At     time.Time
}
