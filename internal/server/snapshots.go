package server

import (
	"banger/api"
	"banger/internal/operation"
)

func (s *Server) listSnapshots(c *call) ([]api.Snapshot, error) {
	return s.VMs.Snapshots.List(c.ctx, "")
}

func (s *Server) listSnapshotsOf(c *call) ([]api.Snapshot, error) {
	return s.VMs.Snapshots.List(c.ctx, c.ref())
}

func (s *Server) createSnapshot(c *call, create api.SnapshotCreate) (*operation.Operation, error) {
	return s.VMs.Snapshots.Create(c.ctx, c.ref(), create)
}

func (s *Server) getSnapshot(c *call) (api.Snapshot, error) {
	return s.VMs.Snapshots.Get(c.ctx, c.ref(), c.r.PathValue("name"))
}

func (s *Server) restoreSnapshot(c *call, restore api.SnapshotRestore) (*operation.Operation, error) {
	return s.VMs.Snapshots.Restore(c.ctx, c.ref(), c.r.PathValue("name"), restore.Force)
}

func (s *Server) deleteSnapshot(c *call) (api.Snapshot, error) {
	return s.VMs.Snapshots.Delete(c.ctx, c.ref(), c.r.PathValue("name"))
}
