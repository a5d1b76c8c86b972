package qemu

import (
	"context"
	"errors"
	"time"

	"banger/internal/hypervisor/qemu/qmp"
)

// takeTurn keeps freezes, pauses and resumes of one guest apart.
func (i *instance) takeTurn(ctx context.Context) error {
	select {
	case i.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-i.life.Done():
		return context.Cause(i.life)
	}
}

func (i *instance) endTurn() { <-i.turn }

// Pause stops the guest's CPUs.
func (i *instance) Pause(ctx context.Context) error {
	if err := i.takeTurn(ctx); err != nil {
		return i.h.wrap(&i.m, "pause", err)
	}
	defer i.endTurn()
	before := i.setStanding(true)
	err := i.do(ctx, func(c *qmp.Client) error { return c.BeginStop().Wait(ctx, nil) })
	if err != nil {
		i.setStanding(before)
		return i.h.wrap(&i.m, "pause", err)
	}
	return nil
}

// Resume lets them go on.
func (i *instance) Resume(ctx context.Context) error {
	if err := i.takeTurn(ctx); err != nil {
		return i.h.wrap(&i.m, "resume", err)
	}
	defer i.endTurn()
	if !i.Standing() {
		return nil
	}
	if err := i.do(ctx, func(c *qmp.Client) error { return c.Cont(ctx) }); err != nil {
		return i.h.wrap(&i.m, "resume", err)
	}
	return nil
}

// Standing reports whether it was us who stopped the guest, an earlier daemon included.
func (i *instance) Standing() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.standing
}

// setStanding returns what it was. RESUME, in onResume, ends it.
func (i *instance) setStanding(v bool) (before bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	before, i.standing = i.standing, v
	return before
}

// goOn lets the guest go on after a freeze that failed; a connection that broke meanwhile comes back, and whoever brings
// it back lets a guest go on that is not to stand.
func (i *instance) goOn() error {
	i.setStanding(false)
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
