// Package store keeps banger's durable records in one SQLite file: a file here for
// each noun, numbered migrations embedded. It imports api only, and is imported by
// template, image, vm, session and daemon. What is currently true on the host (processes,
// devices) is never kept here.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"time"

	sqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"banger/api"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is the open database. Safe for concurrent use.
type Store struct {
	db *sql.DB
	// soon is the same file, for what nobody misses after a power cut; see fleeting.
	soon *sql.DB
	now  func() time.Time
}

// Open opens the database file, makes it if it is missing, and brings it up to the
// newest migration. A file from a newer banger is refused.
func Open(ctx context.Context, path string, now func() time.Time) (*Store, error) {
	// synchronous=FULL: an acknowledged record must survive a power cut under WAL too.
	db, err := connect(path, "FULL")
	if err != nil {
		return nil, err
	}
	// NORMAL: a power cut takes the last transactions, never half of one, and none before one that was FULL.
	soon, err := connect(path, "NORMAL")
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	s := &Store{db: db, soon: soon, now: now}
	if err := s.migrate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open database %s: %w", path, err), s.Close())
	}
	return s, nil
}

func connect(path, synchronous string) (*sql.DB, error) {
	// The pragmas are in the DSN so that every pooled connection has them.
	dsn := (&url.URL{Scheme: "file", Opaque: path, RawQuery: url.Values{
		"_pragma": {"journal_mode(WAL)", "synchronous(" + synchronous + ")", "busy_timeout(10000)", "foreign_keys(1)"},
		// Writers take the lock at BEGIN: a read that turns into a write would fail at once instead of waiting.
		"_txlock": {"immediate"},
	}.Encode()}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("cannot open database %s: %w", path, err)
	}
	return db, nil
}

// Close closes the database.
func (s *Store) Close() error { return errors.Join(s.soon.Close(), s.db.Close()) }

func (s *Store) migrate(ctx context.Context) error {
	files, err := fs.Glob(migrations, "migrations/*.sql") // sorted by name, so by number
	if err != nil {
		return err
	}
	return s.tx(ctx, func(t *tx) error {
		var have int
		if err := t.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
			return err
		}
		if have > len(files) {
			return api.Errorf(api.CodeConflict, "the database is of a newer banger (schema %d, this one knows %d)", have, len(files))
		}
		for i, name := range files[have:] {
			text, err := migrations.ReadFile(name)
			if err != nil {
				return err
			}
			if _, err := t.ExecContext(ctx, string(text)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if _, err := t.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", have+i+1)); err != nil {
				return err
			}
		}
		return nil
	})
}

// tx is a transaction with one idea of the present time.
type tx struct {
	*sql.Tx
	now time.Time
}

// tx runs a transaction that is on disk when it returns.
func (s *Store) tx(ctx context.Context, fn func(*tx) error) error { return s.txOn(ctx, s.db, fn) }

func (s *Store) txOn(ctx context.Context, db *sql.DB, fn func(*tx) error) error {
	sqlTx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return mapError(err)
	}
	if err := fn(&tx{sqlTx, s.now().UTC()}); err != nil {
		return errors.Join(mapError(err), ignoreDone(sqlTx.Rollback()))
	}
	return mapError(sqlTx.Commit())
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// errTaken is a broken uniqueness rule; the nouns turn it into words.
var errTaken = errors.New("already taken")

// mapError turns the driver's errors into ours, here and nowhere else.
func mapError(err error) error {
	var se *sqlite.Error
	if !errors.As(err, &se) {
		return err
	}
	switch se.Code() {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
		return fmt.Errorf("%w: %w", errTaken, err)
	case sqlite3.SQLITE_FULL:
		return api.Errorf(api.CodeExhausted, "no space left for the database: %w", err)
	case sqlite3.SQLITE_BUSY:
		return api.Errorf(api.CodeBusy, "the database is busy: %w", err)
	}
	return err
}
