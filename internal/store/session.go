package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"banger/api"
)

// Sessions reads what is recorded of a VM's sessions, oldest first; of all VMs where vmID is empty.
func (s *Store) Sessions(ctx context.Context, vmID string) ([]api.Session, error) {
	return sessionsBy(ctx, s.db, vmID)
}

// UpdateSessions puts what fn makes of the records of a VM's sessions in their place, and adds the events that it
// returns, in one transaction. An error from fn changes nothing.
func (s *Store) UpdateSessions(ctx context.Context, vmID string, fn func(api.VM, []api.Session) ([]api.Session, []api.Event, error)) error {
	return s.tx(ctx, func(t *tx) error {
		vm, err := t.byID(ctx, vmID)
		if err != nil {
			return err
		}
		have, err := sessionsBy(ctx, t, vmID)
		if err != nil {
			return err
		}
		want, events, err := fn(vm, slices.Clone(have))
		if err != nil {
			return err
		}
		// First what goes: a name may have passed from one to another.
		for _, old := range have {
			if !slices.ContainsFunc(want, func(w api.Session) bool { return w.ID == old.ID && w.Name == old.Name }) {
				if _, err := t.ExecContext(ctx, `DELETE FROM sessions WHERE vm_id=? AND id=?`, vmID, old.ID); err != nil {
					return fmt.Errorf("cannot remove the record of session %s: %w", old.Name, err)
				}
			}
		}
		for _, w := range want {
			if slices.ContainsFunc(have, func(old api.Session) bool { return reflect.DeepEqual(old, w) }) {
				continue
			}
			record, err := json.Marshal(w)
			if err != nil {
				return err
			}
			if _, err := t.ExecContext(ctx, `INSERT INTO sessions (vm_id, id, name, record) VALUES (?,?,?,?)
				ON CONFLICT (vm_id, id) DO UPDATE SET record=excluded.record`, vmID, w.ID, w.Name, string(record)); err != nil {
				return fmt.Errorf("cannot record session %s of VM %s: %w", w.Name, vm.Name, err)
			}
		}
		return t.addEvents(ctx, vm, events...)
	})
}

// LastCursor is the newest event's; 0 where there has been none.
func (s *Store) LastCursor(ctx context.Context) (int64, error) {
	var cursor sql.NullInt64
	err := s.db.QueryRowContext(ctx, `SELECT max(cursor) FROM events`).Scan(&cursor)
	return cursor.Int64, mapError(err)
}

// querier is the database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func sessionsBy(ctx context.Context, q querier, vmID string) (out []api.Session, err error) {
	rows, err := q.QueryContext(ctx, `SELECT record FROM sessions WHERE vm_id=? OR ?='' ORDER BY rowid`, vmID, vmID)
	if err != nil {
		return nil, mapError(err)
	}
	defer func() { err = errors.Join(err, mapError(rows.Close())) }()
	out = []api.Session{}
	for rows.Next() {
		var record string
		if err := rows.Scan(&record); err != nil {
			return nil, mapError(err)
		}
		var session api.Session
		if err := json.Unmarshal([]byte(record), &session); err != nil {
			return nil, fmt.Errorf("the record of a session is damaged: %w", err)
		}
		out = append(out, session)
	}
	return out, mapError(rows.Err())
}
