package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/memory"
	"banger/internal/hypervisor/qemu/qmp"
	"banger/internal/hypervisor/vmm"
)

// reconnectPause is between attempts to get a lost control connection back.
const reconnectPause = time.Second

// instance is one running QEMU.
type instance struct {
	h     *Hypervisor
	m     hypervisor.Machine
	p     host.Process
	log   *vmm.LogTail
	guest *vmm.Channel
	// greet begins to greet the guest's agent, as the guest begins to run; nil where an earlier daemon has.
	greet func()
	queue *vmm.Events

	// memory is the id of the memory backend, by which a thawed guest and its image are known.
	memory string
	// lease is the use of a memory image; nil for a guest that was booted, or that an earlier daemon thawed.
	lease *memory.Lease
	// turn is taken while a freeze, a pause or a resume is under way, and while a flattening begins or ends.
	turn vmm.Turn
	// places is nil until a freeze has asked; the turn protects it.
	places *places

	// life ends when the VMM is gone or we let go of it; its cause tells which.
	life   context.Context
	finish context.CancelCauseFunc

	// standing: it was us who stopped the guest. QEMU's RESUME, in onResume, ends it.
	standing atomic.Bool

	// mu protects the following. Nothing that blocks happens under it.
	mu                   sync.Mutex
	control              *qmp.Client
	booted               context.CancelFunc // ends the watch over a boot
	off                  bool               // the guest has said that it powers off
	killed               bool               // by us
	paused               bool               // by QEMU
	migrated             chan string        // while a state is being loaded
	stoppedAt, resumedAt time.Time
	ioReason             string
	jobs                 map[string]*job
	oomKills             uint64 // the host's count when we took the VMM up
}

func newInstance(h *Hypervisor, m hypervisor.Machine, p host.Process, log *vmm.LogTail, memory string) *instance {
	life, finish := context.WithCancelCause(context.Background())
	i := &instance{
		h: h, m: m, p: p, log: log, memory: memory, life: life, finish: finish,
		queue: vmm.NewEvents(), oomKills: vmm.OOMKills(), turn: vmm.NewTurn(life),
	}
	i.guest = vmm.NewChannel(life, vmm.PortOf(agentSocket(&m), p.PID), h.epoch)
	return i
}

// serve begins the background work; the control connection is up.
func (i *instance) serve() {
	go i.watch()
	go i.holdControl()
	go vmm.BoundConsole(i.life, consoleLog(&i.m))
}

func (i *instance) Process() host.Process { return i.p }

func (i *instance) Events() <-chan hypervisor.Event { return i.queue.Out() }

// DialGuest opens a stream on the one session with the guest's agent.
func (i *instance) DialGuest(ctx context.Context) (net.Conn, error) { return i.guest.Open(ctx) }

// Greeted returns when the agent has answered the greeting.
func (i *instance) Greeted(ctx context.Context) (func(context.Context) ([]byte, error), error) {
	return i.guest.Greeted(ctx)
}

// Kill ends the VMM; it is gone when this returns nil.
func (i *instance) Kill(ctx context.Context) error {
	i.mu.Lock()
	i.killed = true
	i.mu.Unlock()
	if err := i.h.end(ctx, i.p); err != nil {
		return i.h.wrap(&i.m, "kill", err)
	}
	return nil
}

// GrowDrive resizes the disk behind a drive and tells the guest.
func (i *instance) GrowDrive(ctx context.Context, serial string, bytes int64) error {
	n, err := i.driveOf(serial)
	if err == nil {
		err = i.grow(ctx, n, bytes)
	}
	if err != nil {
		return fmt.Errorf("cannot grow drive %s of %s: %w", serial, i.m.ID, err)
	}
	return nil
}

func (i *instance) grow(ctx context.Context, n int, bytes int64) error {
	if err := i.turn.Take(ctx); err != nil {
		return err
	}
	defer i.turn.End()
	if err := i.interruptJobs(ctx); err != nil { // one that copies keeps the size as it is
		return err
	}
	return i.do(ctx, func(c *qmp.Client) error {
		tops, err := c.Tops(ctx)
		if err != nil {
			return err
		}
		return c.BlockResize(ctx, tops[device(n)].Node, bytes)
	})
}

// DriveStats are bytes since QEMU's start.
func (i *instance) DriveStats(ctx context.Context) (map[string]hypervisor.DriveStats, error) {
	out := make(map[string]hypervisor.DriveStats, len(i.m.Drives))
	err := i.do(ctx, func(c *qmp.Client) error {
		stats, err := c.BlockStats(ctx)
		for n, d := range i.m.Drives {
			s := stats[device(n)]
			out[d.Serial] = hypervisor.DriveStats{ReadBytes: s.ReadBytes, WriteBytes: s.WriteBytes}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the drives' statistics of %s: %w", i.m.ID, err)
	}
	return out, nil
}

// Detach lets go: QEMU goes on, Events is closed without an EventExited.
func (i *instance) Detach() {
	i.finish(vmm.ErrDetached)
	i.lease.Release()
	i.guest.Close()
	if c := i.currentControl(); c != nil {
		_ = c.Close()
	}
	i.queue.Abandon()
}

// DriveFiles are the files that the drives' newest layers are in.
func (i *instance) DriveFiles(ctx context.Context) (map[string]string, error) {
	out := make(map[string]string, len(i.m.Drives))
	err := i.do(ctx, func(c *qmp.Client) error {
		tops, err := i.tops(ctx, c)
		for n, d := range i.m.Drives {
			out[d.Serial] = tops[device(n)].File
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot tell the drives' files of %s: %w", i.m.ID, err)
	}
	return out, nil
}

func (i *instance) driveOf(serial string) (int, error) {
	for n, d := range i.m.Drives {
		if d.Serial == serial {
			return n, nil
		}
	}
	return 0, fmt.Errorf("it has no drive of that name")
}

// do runs one conversation on the control connection.
func (i *instance) do(ctx context.Context, f func(*qmp.Client) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c := i.currentControl()
	if c == nil {
		return qmp.ErrClosed
	}
	err := f(c)
	if errors.Is(err, qmp.ErrClosed) && i.life.Err() != nil {
		err = context.Cause(i.life)
	}
	return err
}

func (i *instance) currentControl() *qmp.Client {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.control
}

// setControl fails when we have let go meanwhile: then nobody else would close c.
func (i *instance) setControl(c *qmp.Client) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.life.Err() != nil {
		return context.Cause(i.life)
	}
	i.control = c
	return nil
}

// holdControl gets the control connection back when it breaks while QEMU lives.
func (i *instance) holdControl() {
	for {
		select {
		case <-i.currentControl().Done():
		case <-i.life.Done():
			return
		}
		for i.life.Err() == nil {
			ctx, cancel := context.WithTimeout(i.life, adoptTimeout)
			err := i.reconnect(ctx, false)
			cancel()
			if err == nil {
				break
			}
			select {
			case <-time.After(reconnectPause):
			case <-i.life.Done():
			}
		}
	}
}

// watch waits for the end and tells of it, after everything that QEMU said before.
func (i *instance) watch() {
	for i.h.host.Wait(i.life, i.p) != nil {
		if i.life.Err() != nil {
			return // detached
		}
		time.Sleep(reconnectPause) // out of descriptors, most likely: that passes
	}
	if c := i.currentControl(); c != nil {
		<-c.Done() // its socket has ended with the process, so this is a matter of reading what is left
	}
	i.guest.Close()
	status, known := i.h.host.ExitStatus(i.p)
	i.mu.Lock()
	e := vmm.Exit{
		Program: program, Status: status, Known: known, Off: i.off, Killed: i.killed,
		OOM: vmm.OOMKills() > i.oomKills, Words: i.log.Lines(),
	}
	i.mu.Unlock()
	i.queue.Put(hypervisor.Event{Kind: hypervisor.EventExited, Detail: e.Why(), At: time.Now()})
	i.queue.Finish()
	i.lease.Release()
	i.finish(vmm.ErrDied)
}
