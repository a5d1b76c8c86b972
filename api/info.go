package api

import "time"

// Info is GET /v1/info: what this daemon is and what it can do here.
type Info struct {
	Version    string    `json:"version"`
	UID        int       `json:"uid"`
	PID        int       `json:"pid"`
	StartedAt  time.Time `json:"started_at"`
	StateDir   string    `json:"state_dir"`
	Socket     string    `json:"socket"`
	Hypervisor string    `json:"hypervisor"`
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
