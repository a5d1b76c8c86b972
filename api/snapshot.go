package api

import (
	"strings"
	"time"
)

// Snapshot is a named point of a VM: its memory, root disk and work disk, all of one instant.
type Snapshot struct {
	// ID is twelve characters of a-z and 2-7, never used again.
	ID string `json:"id"`
	// Name is a DNS label, unique among the snapshots of one VM.
	Name string `json:"name"`
	VMID string `json:"vm_id"`
	// VM is the name of the VM.
	VM string `json:"vm"`
	// Spec is what the VM was like at that point: without labels and policies.
	Spec VMSpec `json:"spec"`
	// Main is the main command as it was then; null if there was none.
	Main *MainCommand `json:"main"`
	// RootTemplateID, WorkTemplateID, RootLayerID and WorkLayerID are what its disks lie on; empty for none.
	RootTemplateID string `json:"root_template_id"`
	WorkTemplateID string `json:"work_template_id"`
	RootLayerID    string `json:"root_layer_id"`
	WorkLayerID    string `json:"work_layer_id"`
	// UsedBytes is what its memory and its layers of the disks take on the host. The layers may be the VM's, and its
	// forks', too.
	UsedBytes int64     `json:"used_bytes"`
	CreatedAt time.Time `json:"created_at"`
}

// SnapshotCreate is POST /v1/vms/{ref}/snapshots.
type SnapshotCreate struct {
	Name string `json:"name"` // empty: the first free one of s1, s2, …
}

// SnapshotRestore is POST /v1/vms/{ref}/snapshots/{name}/restore.
type SnapshotRestore struct {
	// Force throws the present state of a running or paused VM away.
	Force bool `json:"force"`
}

// Validate checks a snapshot's name; an empty one stands for one that is made up.
func (c SnapshotCreate) Validate() error {
	if c.Name != "" && !isDNSLabel(c.Name) {
		return Errorf(CodeInvalid, "%q is no name for a snapshot: use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit", c.Name)
	}
	return nil
}

// SplitSnapshot takes VM/NAME apart.
func SplitSnapshot(ref string) (vm, name string, err error) {
	vm, name, ok := strings.Cut(ref, "/")
	if !ok || vm == "" || !isDNSLabel(name) {
		return "", "", Errorf(CodeInvalid, "%q names no snapshot: give VM/NAME", ref).WithHint("banger vm snapshot list")
	}
	return vm, name, nil
}
