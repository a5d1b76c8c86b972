package vm

import (
	"context"
	"time"

	"banger/api"
)

// portEvery is how often a port that is waited for is tried: a guest tells nobody that it listens.
const portEvery = 100 * time.Millisecond

// eventBatch is how many events are read from the store at once.
const eventBatch = 256

// Events hands every event after a cursor to fn, in order; with follow it goes on until ctx ends.
func (s *Service) Events(ctx context.Context, after int64, follow bool, fn func(api.Event) error) error {
	for {
		changed := s.changes.Next()
		events, err := s.Store.Events(ctx, after, eventBatch)
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := fn(e); err != nil {
				return err
			}
			after = e.Cursor
		}
		if len(events) == eventBatch {
			continue
		}
		if !follow {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		case <-s.life.Done():
			return nil
		}
	}
}

// after is closed when d has passed or ctx ends.
func after(ctx context.Context, d time.Duration) <-chan struct{} {
	done := make(chan struct{})
	t := time.AfterFunc(d, func() { close(done) })
	context.AfterFunc(ctx, func() {
		if t.Stop() {
			close(done)
		}
	})
	return done
}
