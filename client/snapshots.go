package client

import (
	"context"
	"net/http"

	"banger/api"
)

// Snapshots lists the snapshots of a VM, oldest first; those of all VMs where ref is empty.
func (c *Client) Snapshots(ctx context.Context, ref string) ([]api.Snapshot, error) {
	path := "/v1/snapshots"
	if ref != "" {
		path = vmPath(ref, "snapshots")
	}
	return call[[]api.Snapshot](ctx, c, request{method: http.MethodGet, path: path})
}

// Snapshot finds a VM's snapshot by its name.
func (c *Client) Snapshot(ctx context.Context, ref, name string) (api.Snapshot, error) {
	return call[api.Snapshot](ctx, c, request{method: http.MethodGet, path: snapshotPath(ref, name)})
}

// CreateSnapshot begins to snapshot a VM; the operation's result is the snapshot's name.
func (c *Client) CreateSnapshot(ctx context.Context, ref string, create api.SnapshotCreate) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: vmPath(ref, "snapshots"), body: create})
}

// RestoreSnapshot begins to put a VM back to a snapshot; a running or paused one only with restore.Force.
func (c *Client) RestoreSnapshot(ctx context.Context, ref, name string, restore api.SnapshotRestore) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: snapshotPath(ref, name, "restore"), body: restore})
}

// DeleteSnapshot removes a snapshot.
func (c *Client) DeleteSnapshot(ctx context.Context, ref, name string) (api.Snapshot, error) {
	return call[api.Snapshot](ctx, c, request{method: http.MethodDelete, path: snapshotPath(ref, name)})
}

func snapshotPath(ref, name string, rest ...string) string {
	return objectPath(vmPath(ref, "snapshots")+"/", name, rest...)
}
