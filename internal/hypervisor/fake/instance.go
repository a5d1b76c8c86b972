package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/vmm"
)

// instance is one running fake VMM.
type instance struct {
	h       *Hypervisor
	m       hypervisor.Machine
	p       host.Process
	guest   *vmm.Channel
	events  *vmm.Events
	life    context.Context
	finish  context.CancelCauseFunc
	conn    net.Conn
	turn    chan struct{} // filled while a request is under way
	answers chan message
	// read is closed when the control connection has ended.
	read   chan struct{}
	off    atomic.Bool
	killed atomic.Bool
	// standing is what the VMM has last said of itself.
	standing atomic.Bool
}

func (h *Hypervisor) connect(ctx context.Context, m hypervisor.Machine, p host.Process) (*instance, error) {
	// A connection made before the VMM listens itself shows the daemon's pid, so that is not looked at.
	conn, _, err := vmm.Connect(ctx, controlSocket(&m))
	if err != nil {
		return nil, errors.Join(err, errLost)
	}
	life, finish := context.WithCancelCause(context.Background())
	i := &instance{
		h: h, m: m, p: p, life: life, finish: finish, conn: conn, events: vmm.NewEvents(),
		turn: make(chan struct{}, 1), answers: make(chan message), read: make(chan struct{}),
	}
	i.guest = vmm.NewChannel(life, vmm.PortOf(agentSocket(&m), p.PID), vmm.RandomEpoch)
	go i.receive()
	return i, nil
}

func (i *instance) Process() host.Process           { return i.p }
func (i *instance) Events() <-chan hypervisor.Event { return i.events.Out() }

func (i *instance) DialGuest(ctx context.Context) (net.Conn, error) { return i.guest.Open(ctx) }

func (i *instance) Greeted(ctx context.Context) (func(context.Context) ([]byte, error), error) {
	return i.guest.Greeted(ctx)
}

// receive sorts what the VMM says into events and answers.
func (i *instance) receive() {
	defer close(i.read)
	dec := json.NewDecoder(i.conn)
	for {
		var m message
		if dec.Decode(&m) != nil {
			return
		}
		if m.Event == "" {
			select {
			case i.answers <- m:
			case <-i.life.Done():
				return
			}
			continue
		}
		switch m.Event {
		case hypervisor.EventReset:
			i.guest.Reset()
		case hypervisor.EventShutdown:
			i.off.Store(true)
		case hypervisor.EventPaused, hypervisor.EventResumed, hypervisor.EventExited:
		}
		i.events.Put(hypervisor.Event{Kind: m.Event, At: m.At})
	}
}

// ask sends one request and waits for its answer.
func (i *instance) ask(ctx context.Context, r request, out *message) error {
	select {
	case i.turn <- struct{}{}:
		defer func() { <-i.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := json.NewEncoder(i.conn).Encode(r); err != nil {
		return errors.Join(err, errLost)
	}
	select {
	case m := <-i.answers:
		if m.Error != "" {
			return errors.New(m.Error)
		}
		if out != nil {
			*out = m
		}
		return nil
	case <-i.read:
		return errLost
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// watch tells of the end, after all that was said before.
func (i *instance) watch() {
	if i.h.o.Host.Wait(i.life, i.p) != nil {
		return
	}
	<-i.read
	i.guest.Close()
	i.events.Put(hypervisor.Event{Kind: hypervisor.EventExited, Detail: i.why(), At: time.Now()})
	i.events.Finish()
	i.finish(vmm.ErrDied)
	_ = i.conn.Close()
}

func (i *instance) why() string {
	status, known := i.h.o.Host.ExitStatus(i.p)
	switch {
	case i.killed.Load():
		return "killed by banger"
	case i.off.Load():
		return "the guest powered off"
	case known && status.Signaled():
		return fmt.Sprintf("the fake VMM was ended by signal %d (%s)", status.Signal(), status.Signal())
	case known:
		return fmt.Sprintf("the fake VMM ended with exit code %d", status.ExitStatus())
	}
	return "the fake VMM ended"
}

// Kill ends the VMM; what ran in the guest follows within moments.
func (i *instance) Kill(ctx context.Context) error {
	i.killed.Store(true)
	if err := i.h.o.Host.Signal(i.p, syscall.SIGKILL); err != nil {
		return err
	}
	return i.h.o.Host.Wait(ctx, i.p)
}

func (i *instance) GrowDrive(ctx context.Context, serial string, bytes int64) error {
	return i.ask(ctx, request{Do: doGrow, Serial: serial, Bytes: bytes}, nil)
}

func (i *instance) DriveStats(ctx context.Context) (map[string]hypervisor.DriveStats, error) {
	var m message
	err := i.ask(ctx, request{Do: doStats}, &m)
	return m.Stats, err
}

// Detach lets go without touching the VMM.
func (i *instance) Detach() {
	i.finish(vmm.ErrDetached)
	i.guest.Close()
	_ = i.conn.Close()
	<-i.read
	i.events.Abandon()
}
