package firecracker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"banger/api"
	"banger/internal/frame/wire"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/memory"
	"banger/internal/hypervisor/vmm"
)

// instance is one running guest. Its Firecracker is another after each reboot.
type instance struct {
	h *Hypervisor
	m hypervisor.Machine
	// record is how a later daemon learns of a process.
	record hypervisor.Record
	queue  *vmm.Events

	// image is what the guest's memory was mapped from; zero where it began as zeros.
	image memory.ImageID
	// lease is the use of a memory image; nil for a guest that was booted, or that an earlier daemon thawed.
	lease *memory.Lease
	// turn is taken while a freeze, a pause, a resume or a change of a drive is under way.
	turn vmm.Turn

	// guest is the conversation with the agent.
	guest *vmm.Channel

	// life ends when the guest is gone for good or we let go of it; its cause tells which.
	life   context.Context
	finish context.CancelCauseFunc

	// standing: it was us who stopped the guest.
	standing atomic.Bool

	// mu protects the following. Nothing that blocks happens under it.
	mu       sync.Mutex
	ps       *process
	off      bool       // the guest has said that it is off
	killed   bool       // by us
	wire     *wire.Wire // what guest goes over; nil for none yet
	resets   int        // of the guest's vsock
	reboots  int
	oomKills uint64 // the host's count when we took the VMM up
}

func newInstance(h *Hypervisor, m hypervisor.Machine, record hypervisor.Record) *instance {
	life, finish := context.WithCancelCause(context.Background())
	i := &instance{
		h: h, m: m, record: record, life: life, finish: finish, queue: vmm.NewEvents(),
		oomKills: vmm.OOMKills(), turn: vmm.NewTurn(life),
	}
	i.guest = vmm.NewChannel(life, i.connect, vmm.RandomEpoch)
	return i
}

// publish makes a process the instance's; it fails when that is to have none any more.
func (i *instance) publish(ps *process) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	old := i.ps
	i.ps = ps
	if old != nil {
		close(old.next)
	}
	if i.killed {
		return errKilled
	}
	return context.Cause(i.life)
}

var errKilled = errors.New("it was killed meanwhile")

func (i *instance) current() *process {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.ps
}

// serve begins the background work.
func (i *instance) serve() {
	go i.watch()
	go i.watchConsole()
	go vmm.BoundConsole(i.life, consoleLog(&i.m))
	go vmm.BoundConsole(i.life, metricsFile(&i.m))
	i.watchDrives()
}

func (i *instance) Process() host.Process { return i.current().p }

func (i *instance) Events() <-chan hypervisor.Event { return i.queue.Out() }

func (i *instance) emit(k hypervisor.EventKind, detail string) {
	i.queue.Put(hypervisor.Event{Kind: k, Detail: detail, At: time.Now()})
}

// Kill ends the VMM, and waits until all that it held is gone.
func (i *instance) Kill(ctx context.Context) error {
	i.mu.Lock()
	i.killed = true
	ps := i.ps
	i.mu.Unlock()
	err := i.h.kill(ctx, ps.p)
	if err == nil && !errors.Is(context.Cause(i.life), vmm.ErrDetached) {
		select {
		case <-i.life.Done():
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	if err != nil {
		return i.h.wrap(&i.m, "kill", err)
	}
	return nil
}

// Detach lets go: Firecracker goes on, Events is closed without an EventExited.
func (i *instance) Detach() {
	i.finish(vmm.ErrDetached)
	i.lease.Release()
	if ps := i.current(); ps != nil {
		ps.let(vmm.ErrDetached)
	}
	i.guest.Close()
	i.queue.Abandon()
}

// watch follows the guest from one Firecracker to the next, and tells of the end.
func (i *instance) watch() {
	for {
		ps := i.current()
		for i.h.o.Host.Wait(i.life, ps.p) != nil {
			if i.life.Err() != nil {
				return // detached
			}
			time.Sleep(time.Second) // out of descriptors, most likely: that passes
		}
		ps.let(vmm.ErrDied)
		status, known := i.h.o.Host.ExitStatus(ps.p)
		i.mu.Lock()
		e := vmm.Exit{
			Program: program, Status: status, Known: known, Off: i.off, Killed: i.killed, OOM: vmm.OOMKills() > i.oomKills, Words: i.words(ps),
		}
		i.mu.Unlock()
		if !e.Off && !e.Killed && i.rebooted(status, known) {
			err := i.again()
			if err == nil {
				continue
			}
			if errors.Is(err, vmm.ErrDetached) {
				return
			}
			e.Words = fmt.Sprintf("the guest rebooted, and could not be started again: %v", err)
			i.mu.Lock()
			e.Killed = i.killed
			i.mu.Unlock()
		}
		i.over(e)
		return
	}
}

// over is the end of the guest.
func (i *instance) over(e vmm.Exit) {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if err := i.h.Clean(ctx, i.m); err != nil {
		i.h.o.Log.Warn("something of a VMM is left", "vm", i.m.ID, "error", err)
	}
	i.lease.Release()
	if e.Off { // then it was us who ended the VMM
		e = vmm.Exit{Off: true}
	}
	i.queue.Put(hypervisor.Event{Kind: hypervisor.EventExited, Detail: e.Why(), At: time.Now()})
	i.queue.Finish()
	i.finish(vmm.ErrDied)
	close(i.current().next)
}

// again boots the guest that has just rebooted, in a Firecracker of its own.
func (i *instance) again() error {
	if err := i.turn.Take(i.life); err != nil {
		return err
	}
	defer i.turn.End()
	ctx, cancel := context.WithTimeout(i.life, time.Minute)
	defer cancel()
	// What the guest had written lies in its present layers.
	if err := i.h.Clean(ctx, i.m); err != nil {
		return err
	}
	i.standing.Store(false)
	i.lease.Release()
	i.lease, i.image = nil, memory.ImageID{}
	if err := i.launch(ctx, i.bootAgain); err != nil {
		return err
	}
	i.watchDrives()
	return nil
}

// bootAgain tells of the reboot when there is a new process, and no guest yet that could answer: who talks to it must know by then that it is
// another one.
func (i *instance) bootAgain(ctx context.Context, ps *process) error {
	i.mu.Lock()
	i.reboots++
	i.mu.Unlock()
	i.emit(hypervisor.EventReset, "")
	return i.boot(ctx, ps)
}

// do runs one conversation with the present Firecracker, with the turn taken.
func (i *instance) do(ctx context.Context, what string, f func(ctx context.Context, ps *process) error) error {
	err := i.turn.Take(ctx)
	if err == nil {
		defer i.turn.End()
		ps := i.current()
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(ps.life, func() { cancel(context.Cause(ps.life)) })()
		err = f(ctx, ps)
	}
	if errors.Is(err, vmm.ErrDied) {
		err = api.Errorf(api.CodeConflict, "%w", err)
	}
	if err != nil {
		return i.h.wrap(&i.m, what, err)
	}
	return nil
}

// Pause stops the guest's CPUs.
func (i *instance) Pause(ctx context.Context) error {
	return i.do(ctx, "pause", func(ctx context.Context, ps *process) error {
		before := i.standing.Swap(true)
		err := ps.api.pause(ctx)
		if err != nil {
			i.standing.Store(before)
		}
		return err
	})
}

// Resume lets them go on.
func (i *instance) Resume(ctx context.Context) error {
	return i.do(ctx, "resume", func(ctx context.Context, ps *process) error {
		if !i.Standing() {
			return nil
		}
		return i.goOn(ctx, ps)
	})
}

// goOn lets a guest that stands go on, with the turn taken. Firecracker gives its vsock nothing to receive after any standstill until the guest
// has answered the event that a snapshot sends it (kick and pending_event_ack in its src/vmm/src/devices/virtio/vsock/device.rs); where there was
// no snapshot there is no event, and the vsock would be dead for good. So there always is one. The guest's connections end by it, and its streams go on
// over others.
func (i *instance) goOn(ctx context.Context, ps *process) error {
	if !ps.reset {
		if _, err := i.saveState(ctx, ps); err != nil {
			return err
		}
	}
	if err := ps.api.resume(ctx); err != nil {
		return err
	}
	ps.reset = false
	i.standing.Store(false)
	i.reset()
	return nil
}

// Standing reports whether it was us who stopped the guest, an earlier daemon included.
func (i *instance) Standing() bool { return i.standing.Load() }

// SetLink plugs the host's end of the guest's network cable in or out: the guest's end has no state that it could see.
func (i *instance) SetLink(_ context.Context, up bool) error {
	if i.m.NIC == nil || i.m.NIC.TapName == "" {
		return nil
	}
	if err := i.h.o.Host.SetTapUp(i.m.NIC.TapName, up); err != nil {
		return fmt.Errorf("cannot set the network link of %s: %w", i.m.ID, err)
	}
	return nil
}
