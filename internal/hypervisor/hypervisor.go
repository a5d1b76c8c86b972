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

// NICKind is what a network device is connected to. A state that was frozen with one kind thaws with that only.
type NICKind string

// The kinds of a NIC.
const (
	NICTap    NICKind = "tap"
	NICSocket NICKind = "socket"
)

// NIC is a virtio network device. Tap or Socket is set, as Kind says.
type NIC struct {
	Kind NICKind
	MAC  string
	// Tap is an open tap descriptor; Start hands it to the VMM and leaves it open for the caller to close, or closes it, where the
	// VMM opens the tap by TapName itself.
	Tap *os.File
	// TapName is the tap's name on the host; its owner is Machine.UID. It is set in a Machine for Adopt, too.
	TapName string
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
	// Caveat is what could not be made sure of, in a clause; empty for nothing.
	Caveat string
	// Version is the VMM's exact version, distribution's revision included.
	Version string
	// MaxCPUs a guest may have.
	MaxCPUs int
	// TapOnly: a NICSocket cannot be had.
	TapOnly bool
}

// Hypervisor starts VMMs and finds them again. Safe for concurrent use.
type Hypervisor interface {
	Name() string
	// Features probes once per host boot and answers from memory after that. The
	// error has code missing_dependency when the VMM is not installed.
	Features(ctx context.Context) (Features, error)
	// Start launches the VMM. record is called with its handles as soon as the process exists and
	// before the guest runs; if record fails the process is ended. It is called again before an EventReset for which the VMM's
	// process was replaced by another. The VMM outlives ctx and the daemon. On error nothing is left running.
	Start(ctx context.Context, m Machine, record Record) (Instance, error)
	// Adopt takes up a VMM that an earlier daemon started. It fails when p is not alive,
	// or is not the VMM of m (by its command line and socket), or its thaw was cut off before the guest ran, and then changes
	// nothing. record is for the guest's reboots.
	Adopt(ctx context.Context, m Machine, p host.Process, record Record) (Instance, error)
	// Thaw starts a VMM whose guest goes on from f, with its network device's link down: whoever personalises the
	// guest calls SetLink after that. record and errors are as for Start. The error has code conflict when the state was
	// made by something that this VMM, machine or host cannot continue; Stamp says what differs.
	Thaw(ctx context.Context, m Machine, f Frozen, record Record) (Instance, error)
	// Stamp is all that must be the same for a state frozen from m to be thawed: the VMM's exact version and
	// arguments, the accelerator, the CPU. Paths, names and addresses are not in it.
	Stamp(ctx context.Context, m Machine) (Stamp, error)
	// Find looks for a running VMM of m when its process id is not known.
	Find(ctx context.Context, m Machine) (host.Process, bool)
	// Clean removes what a VMM of m that is gone has left on the host: its jail, cgroup, block devices. An Instance that ends
	// does so itself; this is for those whose daemon has died. Only m's ID, Dir, UID and the serials of its Drives count. It is idempotent.
	Clean(ctx context.Context, m Machine) error
}

// Record puts on disk what a VMM holds, before it is used.
type Record func(Handles) error

// Handles are what a VMM holds on the host.
type Handles struct {
	Process host.Process
	// Disks are the drives that are block devices of the host.
	Disks []Disk
}

// Disk is a drive as a block device. Its name follows from the VM's id and the serial, so that losing this strands nothing.
type Disk struct {
	Serial string `json:"serial"`
	// DMName is the device-mapper's name for it, DMDev the node: "/dev/dm-3".
	DMName string `json:"dm_name"`
	DMDev  string `json:"dm_dev"`
	// COWLoop is the loop device of its own file, BaseLoop those of what lies below.
	COWLoop  string   `json:"cow_loop"`
	BaseLoop []string `json:"base_loop"`
}

// Instance is one running VMM. Safe for concurrent use.
type Instance interface {
	// Process is the VMM's. It is another one after an EventReset, where record was called again.
	Process() host.Process
	// DialGuest opens a new stream to the agent, waiting for the agent until ctx ends.
	// It finds the agent again after a reboot of the guest or a restart of the agent. The error
	// has code not_ready when ctx ended first, conflict when the VMM is gone.
	DialGuest(ctx context.Context) (net.Conn, error)
	// Greeted returns when the agent has answered the host's greeting, and waits for that as DialGuest does. answer waits for what the agent
	// says to what Frozen.First made, to be had once: nil where it was told nothing, or has not taken it.
	Greeted(ctx context.Context) (answer func(context.Context) ([]byte, error), err error)
	// Kill ends the VMM at once, like pulling the plug, and returns when it is gone.
	Kill(ctx context.Context) error
	// GrowDrive tells the running guest that a drive has the new, larger size.
	GrowDrive(ctx context.Context, serial string, bytes int64) error
	// Freeze writes the guest's state while it stands still; see Freeze's fields for what becomes of it then. On error
	// the guest runs on as it did before and no file is left. It runs on the same disks, too, unless the disk refused what it had
	// reserved: then DriveFiles names the overlays.
	Freeze(ctx context.Context, f Freeze) (FreezeResult, error)
	// Pause stops the guest's CPUs and Resume lets them go on; repeating either is no error.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Standing reports whether the guest's CPUs were stopped by Pause, by Freeze without Resume, or by a daemon that ended
	// between stopping a guest and letting it go on: Adopt leaves such a guest standing, for the caller to Resume.
	Standing() bool
	// DriveFiles tells which file each drive's newest layer is in, by drive serial: after a Freeze with Overlays that was cut off,
	// whether they are in use.
	DriveFiles(ctx context.Context) (map[string]string, error)
	// Flatten copies what lies between a drive's newest layer and the file base into that layer, while the guest runs or
	// stands, and lets go of the files between, which are not changed. The VMM may have opened base by another name. An empty base
	// is for none, so that the newest layer holds all. When Flatten returns nil the newest layer's header names base, on disk. Cut off at
	// any moment, the drive lies on its old chain or on its new one, and holds the same. It ends early, on the old chain: with ctx; with
	// code not_found, when base is not in the chain; with code cancelled, when a Freeze or GrowDrive of this guest comes; with
	// code exhausted, when the host's disk is full.
	Flatten(ctx context.Context, serial, base string) error
	// SetLink plugs the guest's network cable in or out.
	SetLink(ctx context.Context, up bool) error
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
	EventReset    EventKind = "reset"    // the guest reboots; the instance goes on
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

// Freeze says how to freeze a guest.
type Freeze struct {
	// Dir exists and is empty. It gets the file FrozenDevice (the VMM's device state) and one of FrozenMemory and FrozenPages.
	Dir string
	// Whole writes all of the guest's memory as FrozenMemory, a sparse image that clones map privately: a
	// template. Otherwise what the guest does not share with the memory image it was thawed from is written as FrozenPages.
	Whole bool
	// Overlays, by drive serial, are empty copy-on-write layers whose base is that drive's present file; the guest goes on
	// on them, so that the present files never change again. Each exists and can be opened by the VMM's uid or is handed over open.
	Overlays map[string]string
	// Transient: the files need not outlive the host's next crash, so nothing waits for the disk.
	Transient bool
	// Resume lets the guest go on; otherwise it is left standing, for the caller to kill.
	Resume bool
	// Stage, if not nil, is called at the end of each stage of the freeze, in this order: StageStand, …, StageWrite.
	Stage func(name string) `json:"-"`
}

// The stages of a freeze.
const (
	StageStand  = "stand"  // the guest stands still
	StageCopy   = "copy"   // its memory and devices are copied
	StageSwitch = "switch" // it is on its new layers, and goes on if it is to
	StageWrite  = "write"  // all is in the files
)

// FreezeResult tells what a freeze cost.
type FreezeResult struct {
	// StoodStill is from the guest's last instruction before to its first one after; 0 without Resume.
	StoodStill time.Duration
	// MemoryBytes is how much memory was written.
	MemoryBytes int64
}

// Frozen is a guest at rest, as Freeze left it.
type Frozen struct {
	// Device is the path of FrozenDevice.
	Device string
	// Memory is the image to map privately; empty for a guest that was not thawed from one.
	Memory string
	// Pages is the path of FrozenPages, to be put over Memory; empty for a template itself.
	Pages string
	// Await, if not nil, is called once the VMM waits for Device and Pages, before either is looked at: a fork's VMM starts while its
	// source is still being frozen. The drives must be there from the beginning: layers over the files that the source is about to
	// leave, and writes into until Await returns, so that nothing read from them before may be used. Its error ends the thaw.
	Await func(ctx context.Context) error
	// BeforeRun, if not nil, is called when the state is loaded and before the guest's first instruction: from then on
	// the disks move away from the state. Its error ends the thaw with nothing left running.
	BeforeRun func() error
	// First, if not nil, makes what the guest's agent is told with the greeting, as the guest begins to run: the first frame of a call of
	// package frame/brief, at most link.MaxFirst bytes; nil for nothing. It may be called again, where the greeting was lost.
	First func() []byte
	// Stage, if not nil, is called at the end of each stage of the thaw, in this order: StageSpawn, …, StageRun.
	Stage func(name string)
}

// The stages of a thaw.
const (
	StageSpawn   = "spawn"   // the process exists and is recorded
	StageMonitor = "monitor" // the VMM has set its machine up and answers
	StageMemory  = "memory"  // the memory is in place
	StageDevices = "devices" // the devices are
	StageRun     = "run"     // the guest runs
)

// Files that Freeze writes.
const (
	FrozenDevice = "device"
	FrozenMemory = "memory"
	FrozenPages  = "pages"
)

// Stamp is a list of facts in a fixed order.
type Stamp []Fact

// Fact is one thing that a frozen state depends on.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}
