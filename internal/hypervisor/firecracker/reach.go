package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/frame/wire"
)

// redialPause is between attempts while nobody listens in the guest: Firecracker hangs up then, and nobody tells when there is somebody.
// It is a multiple of what an attempt takes where that is long, up to the longest: a guest that boots needs the host's CPU more.
const (
	redialPause   = 20 * time.Millisecond
	redialLongest = 200 * time.Millisecond
	redialTimes   = 4
)

// DialGuest opens a stream on the one session with the guest's agent. Who began to wait before a reboot does not reach the guest after
// it, which has no identity and no disks yet.
func (i *instance) DialGuest(ctx context.Context) (net.Conn, error) {
	ps, reboots, _ := i.present()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ps.life, func() {
		select {
		case <-ps.next:
			if i.life.Err() == nil {
				cancel(errRebooted)
			}
		case <-ctx.Done():
		}
	})()
	c, err := i.guest.Open(ctx)
	if _, now, _ := i.present(); err == nil && now != reboots {
		return nil, api.Errorf(api.CodeNotReady, "the guest's agent has not answered: %w", errors.Join(errRebooted, c.Close()))
	}
	return c, err
}

// Greeted returns when the agent has answered the greeting.
func (i *instance) Greeted(ctx context.Context) (func(context.Context) ([]byte, error), error) {
	return i.guest.Greeted(ctx)
}

var errRebooted = errors.New("the guest reboots")

// connect makes a wire to the agent: one stream of bytes that outlives the resets of the guest's vsock, over connections of that. It
// ends with the guest's Firecracker.
func (i *instance) connect(ctx context.Context) (io.ReadWriteCloser, error) {
	for {
		ps, _, resets := i.present()
		if i.life.Err() != nil {
			return nil, context.Cause(i.life)
		}
		w, err := wire.Dial(ctx, ps.life, func(ctx context.Context) (net.Conn, error) { return i.knockOn(ctx, ps) })
		if err == nil {
			if i.use(w, resets) {
				w.Cut()
			}
			return w, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		pause := time.After(redialPause)
		if ps.life.Err() != nil { // its guest reboots, or is gone
			pause = nil
		}
		select {
		case <-pause:
		case <-ps.next:
		case <-i.life.Done():
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// present is the guest's Firecracker, how often the guest has rebooted, and how often its vsock has been reset.
func (i *instance) present() (ps *process, reboots, resets int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.ps, i.reboots, i.resets
}

// use makes w the present wire, and reports whether the vsock has been reset since.
func (i *instance) use(w *wire.Wire, since int) (reset bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.wire = w
	return i.resets != since
}

// reset tells that the guest has forgotten all connections of its vsock: Firecracker does not.
func (i *instance) reset() {
	i.mu.Lock()
	w := i.wire
	i.resets++
	i.mu.Unlock()
	if w != nil {
		w.Cut()
	}
}

// knockOn makes a connection, until it may no more or the guest's Firecracker has ended.
func (i *instance) knockOn(ctx context.Context, ps *process) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ps.life, func() { cancel(context.Cause(ps.life)) })()
	for {
		began := time.Now()
		conn, err := i.knockOnce(ctx, ps)
		if err == nil {
			return conn, nil
		}
		select {
		case <-time.After(min(max(redialPause, redialTimes*time.Since(began)), redialLongest)):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (i *instance) knockOnce(ctx context.Context, ps *process) (net.Conn, error) {
	raw, err := i.h.o.Host.DialJailed(ctx, ps.jail, inVsock, ps.p)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	err = knock(raw)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return raw, nil
}

// knock tells Firecracker the port that is wanted, and it tells one of its own (its docs/vsock.md).
func knock(raw net.Conn) error {
	if _, err := fmt.Fprintf(raw, "CONNECT %d\n", agentapi.VsockPort); err != nil {
		return err
	}
	var line strings.Builder
	b := make([]byte, 1)
	for line.Len() < 32 {
		if _, err := io.ReadFull(raw, b); err != nil {
			return err
		}
		if b[0] == '\n' {
			break
		}
		line.WriteByte(b[0])
	}
	if !strings.HasPrefix(line.String(), "OK ") {
		return fmt.Errorf("the guest's vsock answers %q", line.String())
	}
	return nil
}
