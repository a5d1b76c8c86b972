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
func (r *Records) Events(ctx context.Context, after int64, follow bool, fn func(api.Event) error) error {
	for {
		changed := r.changes.Next()
		events, err := r.store.Events(ctx, after, eventBatch)
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
		case <-r.life.ctx.Done():
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

// closedWhen is closed when over is true of a VM's record, or the VM is gone, or ctx ends.
func (r *Records) closedWhen(ctx context.Context, id string, over func(api.VM) bool) <-chan struct{} {
	done := make(chan struct{})
	r.life.do(func(life context.Context) {
		defer close(done)
		for {
			changed := r.changes.Next()
			if vm, err := r.store.VM(ctx, id); err != nil || over(vm) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			case <-life.Done():
				return
			}
		}
	})
	return done
}

// Wake tells everybody who follows events that there are new ones.
func (r *Records) Wake() { r.changes.Wake() }
