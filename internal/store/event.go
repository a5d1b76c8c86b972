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

// LastEvent reads the newest event of a kind of one VM, which may be deleted by now.
func (s *Store) LastEvent(ctx context.Context, vmID, kind string) (e api.Event, found bool, err error) {
	events, err := s.events(ctx, `SELECT cursor, at, kind, vm_id, name, data FROM events WHERE vm_id = ? AND kind = ? ORDER BY cursor DESC LIMIT 1`, vmID, kind)
	if err != nil || len(events) == 0 {
		return e, false, err
	}
	return events[0], true, nil
}

// Events reads up to limit events after a cursor, in order.
func (s *Store) Events(ctx context.Context, after int64, limit int) ([]api.Event, error) {
	return s.events(ctx, `SELECT cursor, at, kind, vm_id, name, data FROM events WHERE cursor > ? ORDER BY cursor LIMIT ?`, after, limit)
}

func (s *Store) events(ctx context.Context, query string, args ...any) ([]api.Event, error) {
	rows, err := s.db.QueryContext(ctx, query, args...)
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
