package store

import (
	"context"
	"encoding/json"
	"time"

	"banger/api"
)

// keepEvents is how many events are remembered.
const keepEvents = 10_000

// AddEvent appends an event that belongs to no change of a VM's record.
func (s *Store) AddEvent(ctx context.Context, e api.Event) error {
	return s.tx(ctx, func(t *tx) error { return t.addEvent(ctx, e) })
}

func (t *tx) addEvent(ctx context.Context, e api.Event) error {
	if e.Data == nil {
		e.Data = map[string]string{}
	}
	data, err := json.Marshal(e.Data)
	if err != nil {
		return err
	}
	if _, err := t.ExecContext(ctx, `INSERT INTO events (at, kind, vm_id, name, data) VALUES (?,?,?,?,?)`,
		t.now.Format(time.RFC3339Nano), e.Kind, e.VMID, e.Name, string(data)); err != nil {
		return mapError(err)
	}
	_, err = t.ExecContext(ctx, `DELETE FROM events WHERE cursor <= (SELECT max(cursor) FROM events) - ?`, keepEvents)
	return mapError(err)
}

// Events reads up to limit events after a cursor, in order.
func (s *Store) Events(ctx context.Context, after int64, limit int) ([]api.Event, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT cursor, at, kind, vm_id, name, data FROM events WHERE cursor > ? ORDER BY cursor LIMIT ?`, after, limit)
	if err != nil {
		return nil, mapError(err)
	}
	defer rows.Close()
	out := []api.Event{}
	for rows.Next() {
		var e api.Event
		var at, data string
		if err := rows.Scan(&e.Cursor, &at, &e.Kind, &e.VMID, &e.Name, &data); err != nil {
			return nil, err
		}
		if e.At, err = time.Parse(time.RFC3339Nano, at); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(data), &e.Data); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, mapError(rows.Err())
}
