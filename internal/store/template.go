package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"banger/api"
)

// InsertTemplate records a sealed template. A good one of the same key is an error: the key's lock prevents it.
func (s *Store) InsertTemplate(ctx context.Context, t api.Template) error {
	record, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if _, err := s.db.ExecContext(ctx, `INSERT INTO templates (id, key, record) VALUES (?,?,?)`, t.ID, t.Key, string(record)); err != nil {
		return fmt.Errorf("cannot record template %s: %w", t.ID, mapError(err))
	}
	return nil
}

// TemplateByKey finds the good template of a key.
func (s *Store) TemplateByKey(ctx context.Context, key string) (t api.Template, found bool, err error) {
	list, err := s.templates(ctx, `SELECT record FROM templates WHERE key = ?`, key)
	if err != nil || len(list) == 0 {
		return t, false, err
	}
	return list[0], true, nil
}

// Template reads one template by its whole id.
func (s *Store) Template(ctx context.Context, id string) (api.Template, error) {
	list, err := s.templates(ctx, `SELECT record FROM templates WHERE id = ?`, id)
	if err != nil {
		return api.Template{}, err
	}
	if len(list) == 0 {
		return api.Template{}, api.Errorf(api.CodeNotFound, "no template %q", id).WithHint("banger template list")
	}
	return list[0], nil
}

// Templates reads all templates, discarded ones too.
func (s *Store) Templates(ctx context.Context) ([]api.Template, error) {
	return s.templates(ctx, `SELECT record FROM templates ORDER BY record ->> 'created_at', id`)
}

// DiscardTemplate makes a template be found no longer.
func (s *Store) DiscardTemplate(ctx context.Context, id, why string) error {
	return s.tx(ctx, func(t *tx) error {
		var record string
		err := t.QueryRowContext(ctx, `SELECT record FROM templates WHERE id = ?`, id).Scan(&record)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		} else if err != nil {
			return err
		}
		var tpl api.Template
		if err := json.Unmarshal([]byte(record), &tpl); err != nil {
			return err
		}
		if tpl.Discarded != "" {
			return nil
		}
		tpl.Discarded = why
		text, err := json.Marshal(tpl)
		if err != nil {
			return err
		}
		_, err = t.ExecContext(ctx, `UPDATE templates SET key = NULL, record = ? WHERE id = ?`, string(text), id)
		return err
	})
}

// DeleteTemplate forgets a template; its files are gone.
func (s *Store) DeleteTemplate(ctx context.Context, id string) error {
	_, err := s.db.ExecContext(ctx, `DELETE FROM templates WHERE id = ?`, id)
	return mapError(err)
}

func (s *Store) templates(ctx context.Context, query string, args ...any) ([]api.Template, error) {
	rows, err := s.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, mapError(err)
	}
	defer rows.Close()
	out := []api.Template{}
	for rows.Next() {
		var record string
		var t api.Template
		if err := rows.Scan(&record); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(record), &t); err != nil {
			return nil, fmt.Errorf("the record of a template is damaged: %w", err)
		}
		out = append(out, t)
	}
	return out, mapError(rows.Err())
}
