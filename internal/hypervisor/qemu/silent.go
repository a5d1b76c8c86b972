package qemu

import (
	"context"
	"time"

	"banger/internal/hypervisor/qemu/qmp"
)

// A guest's kernel measures its timer while it boots, and does without where it finds it too slow ("APIC frequency too slow", in
// arch/x86/kernel/apic/apic.c): under emulation that is so when the host lets the virtual CPU wait for 100 ms at the wrong
// moment. A microvm has no other timer. The CPU then halts for good, before anything is mounted, and nothing is lost by beginning again.
const (
	// silentFor is how long a guest that boots does nothing before it counts as halted, silentCPU how little of the host's CPU is nothing.
	silentFor = 5 * time.Second
	silentCPU = 30 * time.Millisecond
	// silentLook is how often it is looked at.
	silentLook = time.Second
	// mostResets bounds the resets of one boot: a guest that halts each time has another reason.
	mostResets = 3
)

// watchBoot sees to it that a guest which boots comes to where its agent speaks, in the background. Another boot ends it.
func (i *instance) watchBoot() {
	ctx, cancel := context.WithCancel(i.life)
	i.mu.Lock()
	before := i.booted
	i.booted = cancel
	i.mu.Unlock()
	if before != nil {
		before()
	}
	go i.resetSilent(ctx)
	go func() {
		defer cancel()
		_ = i.guest.Await(ctx)
	}()
}

// resetSilent resets the guest whenever it has halted, until ctx ends.
func (i *instance) resetSilent(ctx context.Context) {
	var at time.Time
	var used time.Duration
	tick := time.NewTicker(silentLook)
	defer tick.Stop()
	for resets := 0; resets < mostResets; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		u, err := i.h.host.Usage(i.p)
		if err != nil {
			return // it is gone
		}
		now := time.Now()
		if at.IsZero() || i.stopped() || u.CPU-used >= silentCPU {
			at, used = now, u.CPU
		}
		if now.Sub(at) < silentFor {
			continue
		}
		resets++
		i.h.log.Warn("a guest has halted while it booted, and is reset", "vm", i.m.ID, "times", resets)
		if err := i.do(ctx, func(c *qmp.Client) error { return c.Reset(ctx) }); err != nil {
			i.h.log.Warn("cannot reset a guest", "vm", i.m.ID, "error", err)
		}
		at = time.Time{}
	}
}

// stopped reports whether the guest's CPUs are not to run.
func (i *instance) stopped() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.paused || i.Standing()
}
