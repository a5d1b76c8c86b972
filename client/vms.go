package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"banger/api"
)

// VMs lists the VMs that pass every filter: "label=K", "label=K=V" or "state=running".
func (c *Client) VMs(ctx context.Context, filters ...string) ([]api.VM, error) {
	return call[[]api.VM](ctx, c, request{method: http.MethodGet, path: "/v1/vms", query: url.Values{"filter": filters}})
}

// VM finds one VM by id, unique prefix of its id (4 characters or more), or name.
// So do all methods that take a ref.
func (c *Client) VM(ctx context.Context, ref string) (api.VM, error) {
	return call[api.VM](ctx, c, request{method: http.MethodGet, path: vmPath(ref)})
}

// CreateVM makes a VM, and begins to start it when create.Start is set.
func (c *Client) CreateVM(ctx context.Context, create api.VMCreate) (api.VMCreated, error) {
	return call[api.VMCreated](ctx, c, request{method: http.MethodPost, path: "/v1/vms", body: create})
}

// UpdateVM changes CPUs, memory and labels, and grows disks.
func (c *Client) UpdateVM(ctx context.Context, ref string, update api.VMUpdate) (api.VM, error) {
	return call[api.VM](ctx, c, request{method: http.MethodPatch, path: vmPath(ref), body: update})
}

// RecordWorkspace has the daemon remember a repository that was brought into a VM.
func (c *Client) RecordWorkspace(ctx context.Context, ref string, w api.Workspace) (api.VM, error) {
	return call[api.VM](ctx, c, request{method: http.MethodPut, path: vmPath(ref, "workspaces"), body: w})
}

// DeleteVM begins to delete a VM; a running one only with force.
func (c *Client) DeleteVM(ctx context.Context, ref string, force bool) (api.Operation, error) {
	q := url.Values{}
	if force {
		q.Set("force", "true")
	}
	return call[api.Operation](ctx, c, request{method: http.MethodDelete, path: vmPath(ref), query: q})
}

// StartVM begins to start a VM, or to let a suspended one go on.
func (c *Client) StartVM(ctx context.Context, ref string, start api.VMStart) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: vmPath(ref, "start"), body: start})
}

// SuspendVM begins to freeze a VM to disk.
func (c *Client) SuspendVM(ctx context.Context, ref string) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: vmPath(ref, "suspend")})
}

// HostShutdown begins to suspend or stop every VM, as the daemon is configured for the host's shutdown.
func (c *Client) HostShutdown(ctx context.Context) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: "/v1/host/shutdown"})
}

// HostBoot begins to start the VMs that are to start with the host.
func (c *Client) HostBoot(ctx context.Context) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: "/v1/host/boot"})
}

// ForkVM reserves forks of a running VM and begins to make them.
func (c *Client) ForkVM(ctx context.Context, ref string, fork api.VMFork) (api.VMForked, error) {
	return call[api.VMForked](ctx, c, request{method: http.MethodPost, path: vmPath(ref, "fork"), body: fork})
}

// PauseVM stops a VM's CPUs.
func (c *Client) PauseVM(ctx context.Context, ref string) (api.VM, error) {
	return call[api.VM](ctx, c, request{method: http.MethodPost, path: vmPath(ref, "pause")})
}

// UnpauseVM lets a paused VM go on.
func (c *Client) UnpauseVM(ctx context.Context, ref string) (api.VM, error) {
	return call[api.VM](ctx, c, request{method: http.MethodPost, path: vmPath(ref, "unpause")})
}

// StopVM begins to stop a VM: asked first, forced after stop.TimeoutMS.
func (c *Client) StopVM(ctx context.Context, ref string, stop api.VMStop) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: vmPath(ref, "stop"), body: stop})
}

// RestartVM begins to stop and start a VM.
func (c *Client) RestartVM(ctx context.Context, ref string, stop api.VMStop) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: vmPath(ref, "restart"), body: stop})
}

// KillVM begins to power a VM off without asking it.
func (c *Client) KillVM(ctx context.Context, ref string) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: vmPath(ref, "kill")})
}

// ResetVM begins to give a VM a fresh root disk; its work disk stays.
func (c *Client) ResetVM(ctx context.Context, ref string, reset api.VMReset) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: vmPath(ref, "reset"), body: reset})
}

// SignalVM sends a signal ("TERM", "SIGTERM" or "15") to the VM's main command.
func (c *Client) SignalVM(ctx context.Context, ref, signal string) error {
	return c.callNone(ctx, request{method: http.MethodPost, path: vmPath(ref, "signal"), body: api.VMSignal{Signal: signal}})
}

// StartMain starts the VM's main command, which lives on without this client.
func (c *Client) StartMain(ctx context.Context, ref string, spec api.ExecSpec) (api.VM, error) {
	return call[api.VM](ctx, c, request{method: http.MethodPost, path: vmPath(ref, "main"), body: spec})
}

// Wait returns when the condition ("exit", "ready", "stopped" or "port:N") holds.
// A timeout of 0 waits without end; one that passes is an error of code timeout.
func (c *Client) Wait(ctx context.Context, ref, condition string, timeout time.Duration) (api.WaitResult, error) {
	q := url.Values{"for": {condition}}
	if timeout > 0 {
		q.Set("timeout_ms", strconv.FormatInt(max(1, timeout.Milliseconds()), 10))
	}
	return call[api.WaitResult](ctx, c, request{method: http.MethodGet, path: vmPath(ref, "wait"), query: q})
}

// Stats is what one VM uses.
func (c *Client) Stats(ctx context.Context, ref string) (api.VMStats, error) {
	return call[api.VMStats](ctx, c, request{method: http.MethodGet, path: vmPath(ref, "stats")})
}

// AllStats is what every running VM uses, in one call.
func (c *Client) AllStats(ctx context.Context) ([]api.VMStats, error) {
	return call[[]api.VMStats](ctx, c, request{method: http.MethodGet, path: "/v1/stats"})
}

// Ports lists what listens in the guest, and how to reach it.
func (c *Client) Ports(ctx context.Context, ref string) ([]api.Port, error) {
	return call[[]api.Port](ctx, c, request{method: http.MethodGet, path: vmPath(ref, "ports")})
}

// Prune removes stopped VMs and images and kernels that nothing uses; a dry run only tells.
func (c *Client) Prune(ctx context.Context, dryRun bool) (api.PruneResult, error) {
	q := url.Values{"dry_run": {strconv.FormatBool(dryRun)}}
	return call[api.PruneResult](ctx, c, request{method: http.MethodPost, path: "/v1/prune", query: q})
}
