package qemu

import (
	"context"
	"errors"
	"time"

	"banger/internal/hypervisor/qemu/qmp"
)

// Pause stops the guest's CPUs.
func (i *instance) Pause(ctx context.Context) error {
	if err := i.turn.Take(ctx); err != nil {
		return i.h.wrap(&i.m, "pause", err)
	}
	defer i.turn.End()
	before := i.standing.Swap(true)
	err := i.do(ctx, func(c *qmp.Client) error { return c.BeginStop().Wait(ctx, nil) })
	if err != nil {
		i.standing.Store(before)
		return i.h.wrap(&i.m, "pause", err)
	}
	return nil
}

// Resume lets them go on.
func (i *instance) Resume(ctx context.Context) error {
	if err := i.turn.Take(ctx); err != nil {
		return i.h.wrap(&i.m, "resume", err)
	}
	defer i.turn.End()
	if !i.Standing() {
		return nil
	}
	if err := i.do(ctx, func(c *qmp.Client) error { return c.Cont(ctx) }); err != nil {
		return i.h.wrap(&i.m, "resume", err)
	}
	return nil
}

// Standing reports whether it was us who stopped the guest, an earlier daemon included.
func (i *instance) Standing() bool { return i.standing.Load() }

// goOn lets the guest go on after a freeze that failed; a connection that broke meanwhile comes back, and whoever brings
// it back lets a guest go on that is not to stand.
func (i *instance) goOn() error {
	i.standing.Store(false)
	ctx, cancel := context.WithTimeout(i.life, adoptTimeout)
	defer cancel()
	for {
		err := i.do(ctx, func(c *qmp.Client) error { return c.Cont(ctx) })
		if err == nil || !errors.Is(err, qmp.ErrClosed) {
			return err
		}
		select {
		case <-time.After(reconnectPause):
		case <-ctx.Done():
			return err
		}
	}
}
