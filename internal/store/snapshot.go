package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"banger/api"
)

// InsertSnapshot records a complete snapshot, and its name in its VM's record. An empty name becomes the
// first free one of s1, s2, …; a taken one is refused with already_exists.
func (s *Store) InsertSnapshot(ctx context.Context, snap api.Snapshot) (api.Snapshot, error) {
	err := s.tx(ctx, func(t *tx) error {
		vm, err := t.byID(ctx, snap.VMID)
		if err != nil {
			return err
		}
		if snap.Name == "" {
			snap.Name = FreeSnapshotName(vm.Snapshots)
		}
		if slices.Contains(vm.Snapshots, snap.Name) {
			return SnapshotExists(vm.Name, snap.Name)
		}
		snap.VM = vm.Name
		record, err := json.Marshal(snap)
		if err != nil {
			return err
		}
		if _, err := t.ExecContext(ctx, `INSERT INTO snapshots (id, vm_id, name, record) VALUES (?,?,?,?)`, snap.ID, vm.ID, snap.Name, string(record)); err != nil {
			return fmt.Errorf("cannot record snapshot %s of VM %s: %w", snap.Name, vm.Name, err)
		}
		return t.nameSnapshots(ctx, vm, append(vm.Snapshots, snap.Name), api.Event{Kind: "snapshot.created", Data: map[string]string{"snapshot": snap.Name}})
	})
	return snap, err
}

// DeleteSnapshot forgets a snapshot; one that is gone already is no error.
func (s *Store) DeleteSnapshot(ctx context.Context, snap api.Snapshot) error {
	return s.tx(ctx, func(t *tx) error {
		done, err := t.ExecContext(ctx, `DELETE FROM snapshots WHERE id = ?`, snap.ID)
		if err != nil {
			return fmt.Errorf("cannot remove the record of snapshot %s: %w", snap.Name, err)
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			return err
		}
		vm, err := t.byID(ctx, snap.VMID)
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(vm.Snapshots, func(name string) bool { return name == snap.Name })
		return t.nameSnapshots(ctx, vm, left, api.Event{Kind: "snapshot.deleted", Data: map[string]string{"snapshot": snap.Name}})
	})
}

// nameSnapshots puts the names into the VM's record.
func (t *tx) nameSnapshots(ctx context.Context, vm api.VM, names []string, e api.Event) error {
	vm.Snapshots = names
	record, err := json.Marshal(vm)
	if err != nil {
		return err
	}
	if _, err := t.ExecContext(ctx, `UPDATE vms SET record=? WHERE id=?`, string(record), vm.ID); err != nil {
		return err
	}
	e.VMID, e.Name = vm.ID, vm.Name
	return t.addEvent(ctx, e)
}

// Snapshot finds a VM's snapshot by its name.
func (s *Store) Snapshot(ctx context.Context, vm api.VM, name string) (api.Snapshot, error) {
	list, err := s.snapshots(ctx, `SELECT record FROM snapshots WHERE vm_id=? AND name=?`, vm.ID, name)
	if err != nil {
		return api.Snapshot{}, err
	}
	if len(list) == 0 {
		return api.Snapshot{}, api.Errorf(api.CodeNotFound, "VM %s has no snapshot %q", vm.Name, name).WithHint("banger vm snapshot list %s", vm.Name)
	}
	return list[0], nil
}

// Snapshots reads all snapshots, oldest first.
func (s *Store) Snapshots(ctx context.Context) ([]api.Snapshot, error) {
	return s.snapshots(ctx, `SELECT record FROM snapshots ORDER BY rowid`)
}

// SnapshotsOf reads a VM's snapshots, oldest first.
func (s *Store) SnapshotsOf(ctx context.Context, vmID string) ([]api.Snapshot, error) {
	return s.snapshots(ctx, `SELECT record FROM snapshots WHERE vm_id=? ORDER BY rowid`, vmID)
}

func (s *Store) snapshots(ctx context.Context, query string, args ...any) (out []api.Snapshot, err error) {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, mapError(err)
	}
	defer func() { err = errors.Join(err, mapError(rows.Close())) }()
	out = []api.Snapshot{}
	for rows.Next() {
		var record string
		if err := rows.Scan(&record); err != nil {
			return nil, mapError(err)
		}
		var snap api.Snapshot
		if err := json.Unmarshal([]byte(record), &snap); err != nil {
			return nil, fmt.Errorf("the record of a snapshot is damaged: %w", err)
		}
		out = append(out, snap)
	}
	return out, mapError(rows.Err())
}

// FreeSnapshotName is the first of s1, s2, … that is not taken.
func FreeSnapshotName(taken []string) string {
	for i := 1; ; i++ {
		if name := fmt.Sprintf("s%d", i); !slices.Contains(taken, name) {
			return name
		}
	}
}

// SnapshotExists is the refusal of a second snapshot of one name.
func SnapshotExists(vm, name string) error {
	return api.Errorf(api.CodeExists, "VM %s has a snapshot %q already", vm, name).WithHint("banger vm snapshot delete %s %s", vm, name)
}
