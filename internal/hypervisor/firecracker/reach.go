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
	"banger/internal/frame/link"
	"banger/internal/hypervisor/vmm"
)

// redialPause is between attempts while nobody listens in the guest: Firecracker hangs up then, and nobody tells when there is somebody.
// It is a multiple of what an attempt takes where that is long, up to the longest: a guest that boots needs the host's CPU more.
const (
	redialPause   = 20 * time.Millisecond
	redialLongest = 200 * time.Millisecond
	redialTimes   = 4
)

// conn is one stream to the agent.
type conn struct {
	net.Conn
	i     *instance
	brief bool
}

// Brief reports that the agent knows this version of package brief.
func (c *conn) Brief() bool { return c.brief }

func (c *conn) Close() error {
	c.i.mu.Lock()
	delete(c.i.conns, c)
	c.i.mu.Unlock()
	return c.Conn.Close()
}

// DialGuest opens a stream: one connection of the guest's vsock. Who began to wait before a reboot does not reach the guest after it, which has
// no identity and no disks yet.
func (i *instance) DialGuest(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, noAnswer(err)
	}
	reboots := i.rebootsSoFar()
	for {
		ps := i.current()
		if i.rebootsSoFar() != reboots {
			return nil, noAnswer(errRebooted)
		}
		if i.life.Err() != nil {
			return nil, noAnswer(context.Cause(i.life))
		}
		began := time.Now()
		c, err := i.dial(ctx, ps)
		if err == nil && i.rebootsSoFar() != reboots {
			err = errors.Join(errRebooted, c.Close())
		}
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, noAnswer(context.Cause(ctx))
		}
		pause := time.After(min(max(redialPause, redialTimes*time.Since(began)), redialLongest))
		if ps.life.Err() != nil { // its guest reboots, or is gone
			pause = nil
		}
		select {
		case <-pause:
		case <-ps.next:
		case <-i.life.Done():
		case <-ctx.Done():
			return nil, noAnswer(context.Cause(ctx))
		}
	}
}

var errRebooted = errors.New("the guest reboots")

func (i *instance) rebootsSoFar() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.reboots
}

// noAnswer gives an error its code: a VMM that is gone will not answer later either.
func noAnswer(err error) error {
	if errors.Is(err, vmm.ErrDied) || errors.Is(err, vmm.ErrDetached) {
		return api.Errorf(api.CodeConflict, "cannot reach the guest: %w", err)
	}
	return api.Errorf(api.CodeNotReady, "the guest's agent has not answered: %w", err)
}

// dial makes one attempt. Firecracker wants to be told the port and tells one of its own (its docs/vsock.md); the agent's first
// byte is the version of its speech.
func (i *instance) dial(ctx context.Context, ps *process) (*conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ps.life, func() { cancel(context.Cause(ps.life)) })()
	raw, err := i.h.o.Host.DialJailed(ctx, ps.jail, inVsock, ps.p)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	speech, err := knock(raw)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	c := &conn{Conn: raw, i: i, brief: speech == link.Speech}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ps != ps || ps.life.Err() != nil {
		_ = raw.Close()
		return nil, vmm.ErrDied
	}
	i.conns[c] = struct{}{}
	return c, nil
}

func knock(raw net.Conn) (speech byte, err error) {
	if _, err := fmt.Fprintf(raw, "CONNECT %d\n", agentapi.VsockPort); err != nil {
		return 0, err
	}
	var line strings.Builder
	b := make([]byte, 1)
	for line.Len() < 32 {
		if _, err := io.ReadFull(raw, b); err != nil {
			return 0, err
		}
		if b[0] == '\n' {
			break
		}
		line.WriteByte(b[0])
	}
	if !strings.HasPrefix(line.String(), "OK ") {
		return 0, fmt.Errorf("the guest's vsock answers %q", line.String())
	}
	_, err = io.ReadFull(raw, b)
	return b[0], err
}

// hangUp ends all streams: the guest has forgotten them.
func (i *instance) hangUp() {
	i.mu.Lock()
	conns := i.conns
	i.conns = map[*conn]struct{}{}
	i.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close()
	}
}
