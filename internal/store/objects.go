package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// objects is one of the two tables of sealed objects, which look alike: a name, the digest
// that it stands for, and the record as JSON.
type objects[T any] struct {
	table string // a constant of this package, never foreign text
	key   func(T) (name, digest string)
}

func (o objects[T]) put(ctx context.Context, s *Store, v T) error {
	record, err := json.Marshal(v)
	if err != nil {
		return err
	}
	name, digest := o.key(v)
	return s.tx(ctx, func(t *tx) error {
		_, err := t.ExecContext(ctx, `INSERT INTO `+o.table+` (name, digest, record) VALUES (?,?,?)
			ON CONFLICT (name) DO UPDATE SET digest=excluded.digest, record=excluded.record`, name, digest, string(record))
		if err != nil {
			return fmt.Errorf("cannot record %s in %s: %w", name, o.table, err)
		}
		return nil
	})
}

func (o objects[T]) list(ctx context.Context, s *Store) (out []T, err error) {
	rows, err := s.db.QueryContext(ctx, `SELECT record FROM `+o.table+` ORDER BY name`)
	if err != nil {
		return nil, mapError(err)
	}
	defer func() { err = errors.Join(err, mapError(rows.Close())) }()
	out = []T{}
	for rows.Next() {
		var record string
		if err := rows.Scan(&record); err != nil {
			return nil, mapError(err)
		}
		var v T
		if err := json.Unmarshal([]byte(record), &v); err != nil {
			return nil, fmt.Errorf("a record in %s is damaged: %w", o.table, err)
		}
		out = append(out, v)
	}
	return out, mapError(rows.Err())
}

// delete removes every name that the digest has; none is no error.
func (o objects[T]) delete(ctx context.Context, s *Store, digest string) error {
	return s.tx(ctx, func(t *tx) error {
		if _, err := t.ExecContext(ctx, `DELETE FROM `+o.table+` WHERE digest=?`, digest); err != nil {
			return fmt.Errorf("cannot remove a record from %s: %w", o.table, err)
		}
		return nil
	})
}
