package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"banger/api"
)

// LayerKind is which of a VM's disks a layer belongs to.
type LayerKind string

// The kinds of a layer.
const (
	LayerRoot LayerKind = "root"
	LayerWork LayerKind = "work"
)

// Layer is a disk's contents up to some moment.
type Layer struct {
	ID string
	// Parent is the layer that it lies on; empty for one on a template, or on the image.
	Parent string
	Kind   LayerKind
	// VMID is the VM whose disk it was, which may be gone.
	VMID      string
	CreatedAt time.Time
}

// AddLayers records layers, and the change of the VM whose disks lie on them from now on, in one transaction.
func (s *Store) AddLayers(ctx context.Context, layers []Layer, vmID string, fn func(*api.VM) ([]api.Event, error)) (vm api.VM, err error) {
	err = s.tx(ctx, func(t *tx) error {
		for _, l := range layers {
			_, err := t.ExecContext(ctx, `INSERT INTO layers (id, parent, kind, vm_id, created_at) VALUES (?,?,?,?,?)`,
				l.ID, l.Parent, l.Kind, l.VMID, l.CreatedAt.UTC().Format(time.RFC3339Nano))
			if err != nil {
				return fmt.Errorf("cannot record layer %s: %w", l.ID, err)
			}
		}
		vm, err = t.updateVM(ctx, vmID, fn)
		return err
	})
	return vm, err
}

// RemoveLayers takes AddLayers back.
func (s *Store) RemoveLayers(ctx context.Context, ids []string, vmID string, fn func(*api.VM) ([]api.Event, error)) (vm api.VM, err error) {
	err = s.tx(ctx, func(t *tx) error {
		for _, id := range ids {
			if _, err := t.ExecContext(ctx, `DELETE FROM layers WHERE id = ?`, id); err != nil {
				return fmt.Errorf("cannot forget layer %s: %w", id, err)
			}
		}
		vm, err = t.updateVM(ctx, vmID, fn)
		return err
	})
	return vm, err
}

// Layers reads all layers, by id.
func (s *Store) Layers(ctx context.Context) (out map[string]Layer, err error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, parent, kind, vm_id, created_at FROM layers`)
	if err != nil {
		return nil, mapError(err)
	}
	defer func() { err = errors.Join(err, mapError(rows.Close())) }()
	out = map[string]Layer{}
	for rows.Next() {
		var l Layer
		var created string
		if err := rows.Scan(&l.ID, &l.Parent, &l.Kind, &l.VMID, &created); err != nil {
			return nil, mapError(err)
		}
		if l.CreatedAt, err = time.Parse(time.RFC3339Nano, created); err != nil {
			return nil, fmt.Errorf("the record of layer %s is damaged: %w", l.ID, err)
		}
		out[l.ID] = l
	}
	return out, mapError(rows.Err())
}

// layersInUse are the columns that name a layer which something lies on; each gives one id, or nothing.
const layersInUse = `
	SELECT record -> 'runtime' ->> 'root_layer_id' FROM vms
	UNION SELECT record -> 'runtime' ->> 'work_layer_id' FROM vms
	UNION SELECT record ->> 'root_layer_id' FROM snapshots
	UNION SELECT record ->> 'work_layer_id' FROM snapshots`

// SweepLayers forgets every layer that nothing lies on, neither directly nor through others, and says which are left.
// held is a list of further ids that something is about to lie on.
func (s *Store) SweepLayers(ctx context.Context, held []string) (left map[string]bool, err error) {
	if held == nil {
		held = []string{}
	}
	text, err := json.Marshal(held)
	if err != nil {
		return nil, err
	}
	left = map[string]bool{}
	err = s.tx(ctx, func(t *tx) error {
		_, err := t.ExecContext(ctx, `
			WITH RECURSIVE live(id) AS (`+layersInUse+`
				UNION SELECT value FROM json_each(?)
				UNION SELECT layers.parent FROM layers JOIN live ON layers.id = live.id
			) DELETE FROM layers WHERE id NOT IN (SELECT id FROM live WHERE id IS NOT NULL)`, string(text))
		if err != nil {
			return fmt.Errorf("cannot forget unused layers: %w", err)
		}
		rows, err := t.QueryContext(ctx, `SELECT id FROM layers`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			left[id] = true
		}
		return rows.Err()
	})
	return left, err
}
