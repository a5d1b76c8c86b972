package vmm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"banger/api"
	"banger/internal/frame/link"
)

// redialPause is between attempts when the VMM's socket refuses; it does so only while the VMM ends.
const redialPause = 100 * time.Millisecond

// Channel is the one session with a guest's agent, shared by all streams and made
// anew whenever the guest has rebooted or its agent was restarted.
type Channel struct {
	connect func(context.Context) (io.ReadWriteCloser, error)
	epoch   func() uint64
	life    context.Context
	// turn is held (filled) by the one caller that is connecting.
	turn chan struct{}

	mu      sync.Mutex // protects the following
	session *link.Session
	attempt context.CancelFunc
	// thawed: there has been no session since the guest was thawed. first makes what the agent is told then; may be nil.
	thawed bool
	first  func() []byte
}

// NewChannel connects to nothing yet: connect does, for as long as its context allows. life ends when the VMM does, or when it is let
// go; its cause tells which. No two values of epoch may be alike, daemon restarts included.
func NewChannel(life context.Context, connect func(context.Context) (io.ReadWriteCloser, error), epoch func() uint64) *Channel {
	return &Channel{connect: connect, epoch: epoch, life: life, turn: make(chan struct{}, 1)}
}

// PortOf connects to the socket of a guest's serial port. Only the VMM's process is accepted behind it, since it lies in a directory that
// the VMM can write: a link in its place could lead to another guest.
func PortOf(path string, pid int) func(context.Context) (io.ReadWriteCloser, error) {
	return func(ctx context.Context) (io.ReadWriteCloser, error) {
		conn, found, err := Connect(ctx, path)
		if err != nil {
			return nil, err
		}
		if found != pid {
			_ = conn.Close()
			return nil, fmt.Errorf("process %d listens on %s, not the VMM", found, path)
		}
		return conn, nil
	}
}

// Open opens a stream, waiting for the agent until ctx ends or the VMM is gone.
func (c *Channel) Open(ctx context.Context) (conn net.Conn, err error) {
	err = c.with(ctx, func(ctx context.Context, s *link.Session) (err error) {
		conn, err = s.Open(ctx)
		return err
	})
	return conn, err
}

// Greeted returns when the agent has answered the greeting, and waits for that as Open does. answer then waits for what it says to
// what Thawed's first made, which is to be had once: nil where it was told nothing, or has not taken it, or this is a later session.
func (c *Channel) Greeted(ctx context.Context) (answer func(context.Context) ([]byte, error), err error) {
	err = c.with(ctx, func(_ context.Context, s *link.Session) error {
		answer = s.Answer
		return nil
	})
	return answer, err
}

// with does something with the session, and again with the next one where it ended just then.
func (c *Channel) with(ctx context.Context, do func(context.Context, *link.Session) error) error {
	if err := ctx.Err(); err != nil {
		return noAnswer(err)
	}
	if c.life.Err() != nil {
		return noAnswer(context.Cause(c.life))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.life, func() { cancel(context.Cause(c.life)) })()
	for {
		s, err := c.connected(ctx)
		if err != nil {
			return noAnswer(err)
		}
		if err = do(ctx, s); err == nil {
			return nil
		}
		select {
		case <-s.Done(): // it ended just now: the next one may do
		default:
			return noAnswer(err)
		}
	}
}

// Await returns when there is a session: the guest's agent has spoken.
func (c *Channel) Await(ctx context.Context) error {
	_, err := c.connected(ctx)
	return err
}

// noAnswer gives an error its code: a VMM that is gone will not answer later either.
func noAnswer(err error) error {
	if errors.Is(err, ErrDied) || errors.Is(err, ErrDetached) {
		return api.Errorf(api.CodeConflict, "cannot reach the guest: %w", err)
	}
	return api.Errorf(api.CodeNotReady, "the guest's agent has not answered: %w", err)
}

// Thawed says that the guest has just been thawed: the first session with it is told so, and what runs in the guest for the
// callers of the one that was frozen goes on. It is told what first makes, too, if that is not nil: see Greeted. It is called before Begin and Open.
func (c *Channel) Thawed(first func() []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.thawed, c.first = true, first
}

// Begin greets the agent on a connection that was made already, in the background; whoever opens a stream waits for that
// first. It is called once, before Open.
func (c *Channel) Begin(conn net.Conn) {
	ctx, cancel := context.WithCancel(c.life)
	c.mu.Lock()
	c.attempt = cancel
	c.mu.Unlock()
	c.turn <- struct{}{}
	go func() {
		defer func() { <-c.turn }()
		defer cancel()
		_, _ = c.greet(ctx, conn)
	}()
}

// connected is the session, made if there is none. One caller connects, the others wait for its turn to end.
func (c *Channel) connected(ctx context.Context) (*link.Session, error) {
	if s := c.current(); s != nil {
		return s, nil
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for {
		if s := c.current(); s != nil {
			return s, nil
		}
		s, err := c.dial(ctx)
		if ctx.Err() != nil {
			if err == nil {
				_ = s.Close()
			}
			return nil, context.Cause(ctx)
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, context.Canceled) { // a Reset is no reason to wait
			select {
			case <-time.After(redialPause):
			case <-ctx.Done():
			}
		}
	}
}

// dial makes one attempt; Reset ends it early. On success the session is the current one.
func (c *Channel) dial(ctx context.Context) (*link.Session, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	c.attempt = cancel
	c.mu.Unlock()
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	return c.greet(ctx, conn)
}

// greet makes a session of a connection.
func (c *Channel) greet(ctx context.Context, conn io.ReadWriteCloser) (*link.Session, error) {
	c.mu.Lock()
	thawed, first := c.thawed, c.first
	c.mu.Unlock()
	var s *link.Session
	var err error
	if thawed {
		var say []byte
		if first != nil {
			say = first()
		}
		s, err = link.DialThawed(ctx, conn, c.epoch(), say)
	} else {
		s, err = link.Dial(ctx, conn, c.epoch())
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attempt = nil
	c.session, c.thawed, c.first = s, false, nil
	return s, nil
}

// current is the session, if there is a living one.
func (c *Channel) current() *link.Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session == nil {
		return nil
	}
	select {
	case <-c.session.Done():
		// Closing is ours to do: a VMM serves one connection at a time.
		go c.session.Close()
		c.session = nil
		return nil
	default:
		return c.session
	}
}

// Reset ends the session and any attempt at one: the guest has forgotten both.
func (c *Channel) Reset() {
	c.mu.Lock()
	s, cancel := c.session, c.attempt
	c.session, c.attempt = nil, nil
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	if s != nil {
		go s.Close()
	}
}

// Close ends the session for good; the end of life keeps a new one from being made.
func (c *Channel) Close() { c.Reset() }
