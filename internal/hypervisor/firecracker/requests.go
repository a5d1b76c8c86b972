package firecracker

import (
	"context"
	"net/http"
)

// What is said to Firecracker, as its description of version 1.16 has it.

type machineConfig struct {
	VCPUs     int   `json:"vcpu_count"`
	MemoryMiB int64 `json:"mem_size_mib"`
}

type bootSource struct {
	Kernel    string `json:"kernel_image_path"`
	Initramfs string `json:"initrd_path"`
	Cmdline   string `json:"boot_args"`
}

type driveConfig struct {
	ID       string `json:"drive_id"`
	Path     string `json:"path_on_host"`
	Root     bool   `json:"is_root_device"`
	ReadOnly bool   `json:"is_read_only"`
	// Cache is Writeback, so that a guest's flush is the host's fsync, or Unsafe, so that there is none.
	Cache string `json:"cache_type"`
}

type driveUpdate struct {
	ID   string `json:"drive_id"`
	Path string `json:"path_on_host"`
}

type networkConfig struct {
	ID  string `json:"iface_id"`
	MAC string `json:"guest_mac"`
	Tap string `json:"host_dev_name"`
}

type vsockConfig struct {
	CID  int    `json:"guest_cid"`
	Path string `json:"uds_path"`
}

type action struct {
	Type string `json:"action_type"`
}

type vmState struct {
	State string `json:"state"`
}

// States, as they are asked for and as they are told.
const (
	statePaused     = "Paused"
	stateResumed    = "Resumed"
	stateNotStarted = "Not started"
)

type snapshotCreate struct {
	Type   string `json:"snapshot_type"`
	State  string `json:"snapshot_path"`
	Memory string `json:"mem_file_path"`
}

type snapshotLoad struct {
	State    string            `json:"snapshot_path"`
	Memory   memoryBackend     `json:"mem_backend"`
	Resume   bool              `json:"resume_vm"`
	Networks []networkOverride `json:"network_overrides,omitempty"`
	Vsock    vsockOverride     `json:"vsock_override"`
	// Realtime lets the guest's clock go on as if it had not been frozen.
	Realtime bool `json:"clock_realtime,omitempty"`
}

type memoryBackend struct {
	Type string `json:"backend_type"`
	Path string `json:"backend_path"`
}

type networkOverride struct {
	ID  string `json:"iface_id"`
	Tap string `json:"host_dev_name"`
}

type vsockOverride struct {
	Path string `json:"uds_path"`
}

func (c *client) state(ctx context.Context) (string, error) {
	var s vmState
	err := c.call(ctx, http.MethodGet, "/", nil, &s)
	return s.State, err
}

func (c *client) act(ctx context.Context, what string) error {
	return c.put(ctx, "/actions", action{what})
}

func (c *client) pause(ctx context.Context) error {
	return c.patch(ctx, "/vm", vmState{statePaused})
}

func (c *client) resume(ctx context.Context) error {
	return c.patch(ctx, "/vm", vmState{stateResumed})
}
