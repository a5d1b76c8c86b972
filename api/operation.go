package api

import "time"

// OperationState is how far a piece of work has come.
type OperationState string

// The states of an operation.
const (
	OperationRunning   OperationState = "running"
	OperationDone      OperationState = "done"
	OperationFailed    OperationState = "failed"
	OperationCancelled OperationState = "cancelled"
)

// Operation is a piece of work that takes a while. The daemon keeps the last 1,000.
type Operation struct {
	ID    string         `json:"id"`
	Kind  string         `json:"kind"` // "vm.start", "image.build", …
	State OperationState `json:"state"`
	// VMID is the VM it works on; empty for images and kernels.
	VMID  string          `json:"vm_id"`
	Steps []OperationStep `json:"steps"`
	// Warnings are for the user to see though the work went on.
	Warnings []string `json:"warnings"`
	// Result is the id or digest of what was made; empty if nothing was.
	Result    string     `json:"result"`
	Error     *Error     `json:"error"`
	StartedAt time.Time  `json:"started_at"`
	EndedAt   *time.Time `json:"ended_at"`
}

// OperationStep is a named part of an operation.
type OperationStep struct {
	Name string `json:"name"`
	// Detail is what it is doing just now; changes while it runs.
	Detail string `json:"detail"`
	// Done and Total measure progress in bytes or items; Total is 0 where unknown.
	Done      int64      `json:"done"`
	Total     int64      `json:"total"`
	StartedAt time.Time  `json:"started_at"`
	EndedAt   *time.Time `json:"ended_at"`
	// DurationMS is set when the step has ended.
	DurationMS int64 `json:"duration_ms"`
	// Stages are what it has been through so far, one after the other from StartedAt on; absent for most steps.
	Stages []OperationStage `json:"stages,omitempty"`
}

// OperationStage is a stretch of a step's time, too short for a step of its own.
type OperationStage struct {
	Name string `json:"name"`
	// DurationUS is in microseconds.
	DurationUS int64 `json:"duration_us"`
	// Within is true for a time that was measured apart, within the stage that follows.
	Within bool `json:"within,omitempty"`
}

// Event is something that happened to a VM, an image or a kernel.
type Event struct {
	// Cursor orders events and only grows, over daemon restarts too; give the last
	// one seen as ?after= to go on from there.
	Cursor int64     `json:"cursor"`
	At     time.Time `json:"at"`
	// Kind is "vm.created", "vm.started", "vm.ready", "vm.stopped", "vm.deleted",
	// "vm.updated", "vm.rebooted", "main.started", "main.ended", "session.started",
	// "session.ended", "session.deleted", "image.created", …
	Kind string `json:"kind"`
	VMID string `json:"vm_id"`
	// Name is the VM's, image's or kernel's name at that time.
	Name string `json:"name"`
	// Data holds what the kind adds, such as exit_code or reason.
	Data map[string]string `json:"data"`
}
