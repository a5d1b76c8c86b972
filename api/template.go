package api

import "time"

// Template is a frozen ready machine that starts are thawed from.
type Template struct {
	ID string `json:"id"`
	// Key is the sha256 over everything that a clone must have in common with it.
	Key string `json:"key"`
	// Image is the name that the image had when the template was built.
	Image        string  `json:"image"`
	ImageDigest  string  `json:"image_digest"`
	KernelDigest string  `json:"kernel_digest"`
	CPUs         int     `json:"cpus"`
	MemoryBytes  int64   `json:"memory_bytes"`
	DiskBytes    int64   `json:"disk_bytes"`
	RootBytes    int64   `json:"root_bytes"`
	Net          NetKind `json:"net"`
	Hypervisor   string  `json:"hypervisor"`
	Accel        string  `json:"accel"`
	// UsedBytes is what it takes on the host.
	UsedBytes int64 `json:"used_bytes"`
	// BuildMS is how long it took to build: what a start without it would take, about.
	BuildMS   int64     `json:"build_ms"`
	CreatedAt time.Time `json:"created_at"`
	// Discarded is why it is thawed no longer though VMs' disks still lie on it; empty for a good one.
	Discarded string `json:"discarded"`
}

// TemplateBuild is POST /v1/templates/build.
type TemplateBuild struct {
	// Spec is that of the VMs that shall be thawed from it; zero fields are the defaults.
	Spec VMSpec `json:"spec"`
}
