package api

import "time"

// Info is GET /v1/info: what this daemon is and what it can do here.
type Info struct {
	Version   string    `json:"version"`
	UID       int       `json:"uid"`
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"started_at"`
	// Unit is systemd's unit that runs the daemon; empty where a command has started it.
	Unit     string `json:"unit"`
	Rights   Rights `json:"rights"`
	StateDir string `json:"state_dir"`
	Socket   string `json:"socket"`
	// Hypervisor is what a VM gets that asks for none, HypervisorReason says why it is this one. Empty where none works.
	Hypervisor       string `json:"hypervisor"`
	HypervisorReason string `json:"hypervisor_reason"`
	// Hypervisors are all that this daemon knows, the better ones first.
	Hypervisors []Hypervisor `json:"hypervisors"`
	// Accel is "kvm" or "tcg"; AccelReason says why, AccelHint what would mend a "tcg".
	Accel       string `json:"accel"`
	AccelReason string `json:"accel_reason"`
	AccelHint   string `json:"accel_hint"`
	CPUs        int    `json:"cpus"`
	// CPULoad is the host's load average over one minute.
	CPULoad         float64 `json:"cpu_load"`
	MemoryBytes     int64   `json:"memory_bytes"`
	MemoryFreeBytes int64   `json:"memory_free_bytes"`
	DiskFreeBytes   int64   `json:"disk_free_bytes"`
	DefaultNet      NetKind `json:"default_net"`
	VMs             int     `json:"vms"`
	VMsRunning      int     `json:"vms_running"`
	// PoolReady is how many clones wait to be taken, PoolWanted how many there should be (0: there is no pool).
	PoolReady  int      `json:"pool_ready"`
	PoolWanted int      `json:"pool_wanted"`
	Images     []Image  `json:"images"`
	Kernels    []Kernel `json:"kernels"`
	// Health is "ok", or "degraded" with Problems saying why.
	Health   string   `json:"health"`
	Problems []string `json:"problems"`
}

// Rights is what a daemon may do on its host.
type Rights string

// The rights.
const (
	RightsRoot   Rights = "root"   // it is root
	RightsHelped Rights = "helped" // an ordinary user's, beside bangerd-root
	RightsUser   Rights = "user"   // an ordinary user's alone: no bridge, no Firecracker
)

// Hypervisor is one way to run VMs.
type Hypervisor struct {
	Name string `json:"name"`
	// Usable is true where VMs can be run with it now. If not, Reason says why, and Hint is the command that mends it.
	Usable  bool   `json:"usable"`
	Version string `json:"version"`
	// Accel is "kvm" or "tcg"; empty where it is not usable.
	Accel  string `json:"accel"`
	Reason string `json:"reason"`
	Hint   string `json:"hint"`
}

// Check is one line of `banger doctor`.
type Check struct {
	Name string `json:"name"`
	// Verdict is "ok", "warn" (works, but worse) or "fail" (banger cannot run VMs here).
	Verdict string `json:"verdict"`
	Detail  string `json:"detail"`
	// Hint is the command that mends it; empty where nothing needs mending.
	Hint string `json:"hint"`
}

// Check verdicts.
const (
	VerdictOK   = "ok"
	VerdictWarn = "warn"
	VerdictFail = "fail"
)

// LogLine headers and parameters: GET /v1/vms/{ref}/logs answers text/plain, the
// raw bytes from ?offset=; with ?timestamps=true each line starts with its RFC 3339
// time and a space. The header LogOffsetHeader gives the offset of the first byte
// sent, which is later than the one asked for where older output is gone.
const LogOffsetHeader = "Banger-Log-Offset"
