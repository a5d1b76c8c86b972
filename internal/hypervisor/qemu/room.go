package qemu

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// A guest that stands because the host's disk is full is looked after this often, and goes on
// when this much is free again. No event tells of free space.
const (
	roomEvery = 5 * time.Second
	roomBytes = 64 << 20
)

// resumeWhenRoom lets a guest go on that QEMU stopped for want of disk space. QEMU repeats the
// write that failed, so the guest has lost nothing.
func (i *instance) resumeWhenRoom() {
	every := time.NewTicker(roomEvery)
	defer every.Stop()
	for i.isPaused() {
		select {
		case <-every.C:
		case <-i.life.Done():
			return
		}
		if i.hasRoom() {
			i.tryOn()
		}
	}
}

// tryOn lets the guest go on, unless somebody wants it to stand. Until RESUME says otherwise it counts as
// paused, and is tried again.
func (i *instance) tryOn() {
	ctx, cancel := context.WithTimeout(i.life, adoptTimeout)
	defer cancel()
	if i.turn.Take(ctx) != nil {
		return
	}
	defer i.turn.End()
	if c := i.currentControl(); c != nil && !i.Standing() {
		_ = c.Cont(ctx)
	}
}

func (i *instance) isPaused() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.paused
}

// hasRoom looks at the file systems of the drives that the guest writes to.
func (i *instance) hasRoom() bool {
	for _, d := range i.m.Drives {
		var st unix.Statfs_t
		if d.ReadOnly || unix.Statfs(d.Path, &st) != nil {
			continue
		}
		if st.Bavail*uint64(st.Bsize) < roomBytes {
			return false
		}
	}
	return true
}
