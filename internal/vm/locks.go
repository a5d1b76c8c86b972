package vm

import (
	"context"

	"banger/internal/keylock"
)

// vmLocks is a lock per VM, and per snapshot, by id: held for a whole start, stop, reset or delete, the undo of a failed
// start included. Waiting for one honours the context. The zero value is ready.
type vmLocks struct{ keylock.Locks }

func (l *vmLocks) with(ctx context.Context, id string, fn func() error) error {
	unlock, err := l.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	return fn()
}
