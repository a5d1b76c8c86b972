package api

import "time"

// State is where a VM is in its life.
//
//	            create
//	              │
//	              ▼    start            agent answers: Ready becomes true
//	┌──────── stopped ──────▶ starting ──────▶ running ─┐
//	│           ▲  ▲              │ fails          │    │ stop, kill, guest's poweroff
//	│           │  └──────────────┘                ▼    │
//	│           └───────────────────────────── stopping ◀┘
//	└─ delete ─▶ deleting ─▶ (no row)
type State string

// The states.
const (
	StateStopped   State = "stopped"   // no process; disks are there
	StateStarting  State = "starting"  // a start is under way
	StateRunning   State = "running"   // its VMM runs; see VM.Ready for the guest
	StateStopping  State = "stopping"  // a stop is under way
	StateSuspended State = "suspended" // no process; memory is frozen on disk, and a start goes on from there
	StatePaused    State = "paused"    // its VMM runs, its CPUs stand still
	StateDeleting  State = "deleting"  // being removed; finished at the next daemon start if cut off
	// StatePooled is a clone that is nobody's yet, kept so that a start need not make one. It is in no list that does
	// not ask for it, has no name, and makes no events. Taken, it is running.
	StatePooled State = "pooled"
)

// NetKind is how a VM is connected.
type NetKind string

// The kinds of network.
const (
	NetBridge NetKind = "bridge" // a tap on banger's bridge, its own address, NAT; needs root
	NetUser   NetKind = "user"   // user-mode networking, outgoing only; needs no root
	NetNone   NetKind = "none"   // no network device at all; exec, cp, ssh and port-forward still work
)

// HypervisorAuto asks for the best hypervisor that works on the host.
const HypervisorAuto = "auto"

// VMSpec is what a user asks for. Zero values mean "the default" in a request
// and are filled in before the spec is stored.
type VMSpec struct {
	// Image and Kernel are names or digests (sha256, or a prefix of at least 12).
	Image  string `json:"image"`
	Kernel string `json:"kernel"`
	// CPUs is the number of virtual CPUs, 1 to 64.
	CPUs int `json:"cpus"`
	// MemoryBytes is the guest's memory, a multiple of 1 MiB, at least 64 MiB.
	MemoryBytes int64 `json:"memory_bytes"`
	// DiskBytes is the size of the work disk at /root and /home, at least 64 MiB.
	DiskBytes int64 `json:"disk_bytes"`
	// RootBytes is the size of the root disk, at least the image's size.
	RootBytes int64   `json:"root_bytes"`
	Net       NetKind `json:"net"`
	// Hypervisor is "qemu" or "firecracker", and never changes. In a request "" stands for the configured one and "auto" for the best
	// that works on this host.
	Hypervisor string `json:"hypervisor"`
	// Labels are the user's own; keys of 1 to 63 and values of up to 255 bytes.
	Labels map[string]string `json:"labels"`
	// AutoRemove deletes the VM as soon as its main command has ended or, when
	// it has none, as soon as it has stopped.
	AutoRemove bool `json:"auto_remove"`
	// IdleSuspendMS suspends the VM when for so many milliseconds nobody used it and its guest used under 2 % of a core; the
	// next exec, copy, forward or ssh wakes it. 0 is never, in a request the default; -1 in a request is never, whatever the default.
	// At least 1,000, at most a year.
	IdleSuspendMS int64 `json:"idle_suspend_ms"`
	// Autostart starts the VM when the host has booted; a suspended one goes on. It takes banger's units: `banger system install`.
	Autostart bool `json:"autostart"`
}

// VMRuntime is what banger has decided for a VM. It is durable (SQLite), and
// everything in it is intent or can be derived. What is true at this moment
// (process ids, tap devices) is VMHandles, which is never stored here.
type VMRuntime struct {
	ImageDigest  string `json:"image_digest"`  // sha256, set at create
	KernelDigest string `json:"kernel_digest"` // sha256, set at create
	Accel        string `json:"accel"`         // "kvm" or "tcg"; set at each start
	GuestIP      string `json:"guest_ip"`      // dotted quad; empty for NetNone
	MAC          string `json:"mac"`           // locally administered; empty for NetNone
	DNSName      string `json:"dns_name"`      // NAME.vm
	VMDir        string `json:"vm_dir"`
	APISockPath  string `json:"api_sock_path"` // the VMM's control socket
	VSockPath    string `json:"vsock_path"`    // the agent channel's socket
	VSockCID     uint32 `json:"vsock_cid"`     // 0 where the hypervisor has no vsock
	LogPath      string `json:"log_path"`      // the console's log
	MetricsPath  string `json:"metrics_path"`  // empty where the hypervisor writes none
	// SystemOverlay and WorkDiskPath are the copy-on-write root and the work disk.
	SystemOverlay string `json:"system_overlay"`
	WorkDiskPath  string `json:"work_disk_path"`
	// UID is the host uid that the VMM runs under; 0 means the daemon's own.
	UID int `json:"uid"`
	// SSHHostKey is the guest's public host key as in known_hosts: "ssh-ed25519 AAAA…".
	SSHHostKey string `json:"ssh_host_key"`
	// RootTemplateID and WorkTemplateID are the templates that the disks lie on; empty for none. A clone's memory lies on
	// the root's template too.
	RootTemplateID string `json:"root_template_id"`
	WorkTemplateID string `json:"work_template_id"`
	// RootLayerID and WorkLayerID are the layers, shared with forks and snapshots, that the disks lie on; empty for a disk that
	// lies on its template or image directly.
	RootLayerID string `json:"root_layer_id"`
	WorkLayerID string `json:"work_layer_id"`
	// ForkOf is the id of the VM that this one is a fork of, which may be gone; empty for none.
	ForkOf string `json:"fork_of"`
	// Forking is true until a fork has become a machine of its own.
	Forking bool `json:"forking"`
	// Restoring is true while a snapshot's state is on its way into the place of the VM's own.
	Restoring bool `json:"restoring"`
	// Thawed is true while it runs from a template or a suspended state rather than from a boot.
	Thawed bool `json:"thawed"`
	// MachineID is the guest's /etc/machine-id, 32 hex digits.
	MachineID string `json:"machine_id"`
}

// Failure is why a VM or a command did not do what was asked, kept until delete.
type Failure struct {
	Code    Code      `json:"code"`
	Message string    `json:"message"`
	At      time.Time `json:"at"`
	// ConsoleTail is the end of the guest's console where that helps to see why.
	ConsoleTail string `json:"console_tail,omitempty"`
}

// MainCommand is the record of the command that `run` gave to the VM.
type MainCommand struct {
	Argv      []string   `json:"argv"`
	StartedAt time.Time  `json:"started_at"`
	EndedAt   *time.Time `json:"ended_at"` // null while it runs
	ExitCode  *int       `json:"exit_code"`
	// Signal is the signal's name without SIG where one ended it: "KILL".
	Signal   string `json:"signal,omitempty"`
	TimedOut bool   `json:"timed_out,omitempty"`
	// Error says why it has no exit code though it is over: the VM stopped, it was never found.
	Error string `json:"error,omitempty"`
}

// VM is one machine.
type VM struct {
	// ID is twelve characters of a-z and 2-7, chosen by the daemon, never used again.
	ID string `json:"id"`
	// Name is a DNS label, unique among the VMs of one daemon.
	Name string `json:"name"`
	// ClientID is the caller's own key that makes create idempotent; may be empty.
	ClientID string `json:"client_id"`
	State    State  `json:"state"`
	// Ready is true from the moment that the guest's agent has said so until the VM ends.
	Ready   bool      `json:"ready"`
	Spec    VMSpec    `json:"spec"`
	Runtime VMRuntime `json:"runtime"`
	// Pending is the part of Spec that the running VM does not have yet; it takes
	// effect at the next start. Empty when there is none.
	Pending []string `json:"pending"`
	// Snapshots are the names of its snapshots, oldest first.
	Snapshots []string `json:"snapshots"`
	// Workspaces are the repositories that were brought into it, each with its own GuestPath.
	Workspaces []Workspace `json:"workspaces"`
	// Git is who commits in it are by where nothing in it says otherwise; null for nobody.
	Git  *GitIdentity `json:"git"`
	Main *MainCommand `json:"main"`
	// LastError is kept until the VM has started once more or is deleted.
	LastError *Failure   `json:"last_error"`
	CreatedAt time.Time  `json:"created_at"`
	StartedAt *time.Time `json:"started_at"`
	ReadyAt   *time.Time `json:"ready_at"`
	StoppedAt *time.Time `json:"stopped_at"`
	// StopReason is why it is not running: "requested", "killed", "guest poweroff",
	// "vmm exited", "host restarted", "suspended", "idle", …; empty while it runs.
	StopReason string `json:"stop_reason"`
}

// VMCreate is POST /v1/vms. The VM is made but not started.
type VMCreate struct {
	Name     string `json:"name"`      // empty: one is made up
	ClientID string `json:"client_id"` // empty: not idempotent
	Spec     VMSpec `json:"spec"`
	// Start asks for the VM to be started in the same operation. One that was in the pool runs already when the answer
	// comes, and the operation has ended.
	Start bool `json:"start"`
	// Cold boots it rather than thawing a template.
	Cold bool `json:"cold"`
	// Snapshot, as VM/NAME, is what it goes on from, in the snapshot's shape: of Spec, only Labels,
	// AutoRemove, Autostart and IdleSuspendMS may be set. Without Start it is made suspended.
	Snapshot string `json:"snapshot"`
	// Git is who commits in it are by; null for nobody, or for a VM from a snapshot whoever it was. It does not count for
	// whether two requests with one ClientID are the same.
	Git *GitIdentity `json:"git,omitempty"`
}

// VMStart is POST /v1/vms/{ref}/start.
type VMStart struct {
	// Cold boots a VM rather than thawing a template.
	Cold bool `json:"cold"`
	// DiscardMemory starts a suspended VM as after a power cut: its frozen memory is thrown away.
	DiscardMemory bool `json:"discard_memory"`
}

// MaxForks is how many forks one request may ask for.
const MaxForks = 100

// VMFork is POST /v1/vms/{ref}/fork. All forks begin at the same moment of the source.
type VMFork struct {
	// Count is how many forks, 1 to 100; 0 means one, or as many as Names has.
	Count int `json:"count"`
	// Name is the name of the one fork, or the first part of NAME-1, NAME-2, …; empty: names are made up.
	Name string `json:"name"`
	// Names are the names of all forks, instead of Name.
	Names []string `json:"names"`
	// Labels are added to the source's; an empty value leaves out a label that the source has.
	Labels map[string]string `json:"labels"`
	// AutoRemove deletes a fork as soon as it has stopped, whatever its source does.
	AutoRemove bool `json:"auto_remove"`
}

// VMForked is the answer to VMFork: the forks as they are reserved, and the operation that makes them.
type VMForked struct {
	VMs       []VM      `json:"vms"`
	Operation Operation `json:"operation"`
}

// VMUpdate is PATCH /v1/vms/{ref}; a null field stays as it is. Disks only grow.
type VMUpdate struct {
	CPUs        *int   `json:"cpus"`
	MemoryBytes *int64 `json:"memory_bytes"`
	DiskBytes   *int64 `json:"disk_bytes"`
	RootBytes   *int64 `json:"root_bytes"`
	// IdleSuspendMS takes effect at once; 0 is never.
	IdleSuspendMS *int64 `json:"idle_suspend_ms"`
	Autostart     *bool  `json:"autostart"`
	// Labels are merged into those the VM has; an empty value removes the label.
	Labels map[string]string `json:"labels"`
}

// VMStop is POST /v1/vms/{ref}/stop and …/restart.
type VMStop struct {
	// TimeoutMS is how long the guest may take before it is forced; 0 means 10 s.
	TimeoutMS int64 `json:"timeout_ms"`
}

// VMSignal is POST /v1/vms/{ref}/signal: to the main command.
type VMSignal struct {
	Signal string `json:"signal"` // "TERM", "SIGTERM" or "15"
}

// VMReset is POST /v1/vms/{ref}/reset: a fresh root disk, the work disk stays.
type VMReset struct {
	RootBytes int64 `json:"root_bytes"` // 0: as it was
}

// VMStats is what a VM uses. Counters start at 0 with each start of the VM.
type VMStats struct {
	VMID string `json:"vm_id"`
	Name string `json:"name"`
	// CPUMS is CPU time that the VMM has used, guest included.
	CPUMS int64 `json:"cpu_ms"`
	// RSSBytes is the VMM's resident memory, guest included.
	RSSBytes       int64 `json:"rss_bytes"`
	DiskReadBytes  int64 `json:"disk_read_bytes"`
	DiskWriteBytes int64 `json:"disk_write_bytes"`
	// DiskUsedBytes is what the VM's own disks take on the host.
	DiskUsedBytes int64 `json:"disk_used_bytes"`
	// NetRxBytes and NetTxBytes are seen from the guest.
	NetRxBytes int64 `json:"net_rx_bytes"`
	NetTxBytes int64 `json:"net_tx_bytes"`
	// Guest figures are from the agent; zero when it does not answer.
	GuestMemTotalBytes int64     `json:"guest_mem_total_bytes"`
	GuestMemUsedBytes  int64     `json:"guest_mem_used_bytes"`
	At                 time.Time `json:"at"`
}

// Port is something that listens in the guest.
type Port struct {
	Port     int    `json:"port"`
	Protocol string `json:"protocol"` // "tcp" or "udp"
	Address  string `json:"address"`  // what it is bound to: "0.0.0.0", "127.0.0.1", "::"
	Process  string `json:"process"`  // its program's name, empty if unknown
	// Reach is how to reach it from this host: "10.88.0.5:80", or a banger command.
	Reach string `json:"reach"`
}

// WaitResult is the answer of GET /v1/vms/{ref}/wait.
type WaitResult struct {
	// Condition is what was waited for: "exit", "ready", "stopped", "port:N".
	Condition string       `json:"condition"`
	VM        VM           `json:"vm"`
	Main      *MainCommand `json:"main"`
}

// PruneResult lists what a prune removed (or, in a dry run, would remove).
type PruneResult struct {
	VMs            []string `json:"vms"`
	Images         []string `json:"images"`
	Kernels        []string `json:"kernels"`
	ReclaimedBytes int64    `json:"reclaimed_bytes"`
	// Kept are the stopped VMs that stay, since they have snapshots.
	Kept []string `json:"kept"`
}
