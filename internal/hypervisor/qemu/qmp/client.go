// Package qmp is a small client of the QEMU Machine Protocol: JSON lines over a unix
// socket, as docs/interop/qmp-spec.rst of QEMU has it. It owns the wire and the
// few commands that banger uses; only package qemu imports it. A QMP socket
// serves one client at a time; another waits in the backlog until the first is gone.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// maxLine bounds one message; QEMU's longest for a VM of ours is some kilobytes.
const maxLine = 1 << 20

// writeTimeout bounds the sending of one command: QEMU reads its monitor at all times.
const writeTimeout = 30 * time.Second

// ErrClosed is what a command gets whose connection ended before its answer came.
var ErrClosed = errors.New("QMP connection closed")

// Client is one connection. Safe for concurrent use.
type Client struct {
	conn    net.Conn
	onEvent func(Event)
	done    chan struct{}

	// wmu is held while a command is written. It is never taken with mu held, and the reader never takes
	// it: QEMU may stop reading until we have read what it says.
	wmu sync.Mutex

	mu      sync.Mutex // protects the following
	next    uint64
	pending map[string]chan message
	ended   bool
}

// New shakes hands on conn, which it owns from now on, and serves it. onEvent is
// called for each event, in order, from one goroutine that must not block nor Execute.
func New(ctx context.Context, conn net.Conn, onEvent func(Event)) (*Client, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	in := bufio.NewReaderSize(conn, 16<<10)
	m, err := readMessage(in)
	if err == nil && m.kind() != kindGreeting {
		err = fmt.Errorf("no greeting but %s", m.kind())
	}
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("cannot greet QMP: %w", err)
	}
	c := &Client{conn: conn, onEvent: onEvent, done: make(chan struct{}), pending: map[string]chan message{}}
	go c.read(in)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Execute sends one command and decodes its answer into out, which may be nil. A
// refusal by QEMU is an *Error. When ctx ends first, the command may still happen.
func (c *Client) Execute(ctx context.Context, command string, args, out any) error {
	return c.Begin(command, args).Wait(ctx, out)
}

// Pending is a command that was sent.
type Pending struct {
	c       *Client
	command string
	id      string
	answer  <-chan message
	err     error
}

// Begin sends a command and does not wait: QEMU carries commands out in the order they were sent in. Wait must be
// called.
func (c *Client) Begin(command string, args any) *Pending { return c.BeginWith(command, args, nil) }

// BeginWith hands QEMU a copy of a descriptor with the command. QEMU keeps only the newest, so the answer must have come
// before another is sent.
func (c *Client) BeginWith(command string, args any, file *os.File) *Pending {
	p := &Pending{c: c, command: command}
	p.answer, p.id, p.err = c.send(command, args, file)
	return p
}

// Wait waits for the answer, as Execute does.
func (p *Pending) Wait(ctx context.Context, out any) error {
	if p.err != nil {
		return fmt.Errorf("cannot send %s: %w", p.command, p.err)
	}
	select {
	case m, ok := <-p.answer:
		if !ok {
			return fmt.Errorf("%s: %w", p.command, ErrClosed)
		}
		return m.result(p.command, out)
	case <-ctx.Done():
		p.c.forget(p.id)
		return fmt.Errorf("%s: %w", p.command, context.Cause(ctx))
	}
}

func (c *Client) send(command string, args any, file *os.File) (<-chan message, string, error) {
	answer := make(chan message, 1)
	id, err := c.expect(answer)
	if err != nil {
		return nil, "", err
	}
	if err = c.write(request{Execute: command, Arguments: args, ID: id}, file); err != nil {
		c.forget(id)
	}
	return answer, id, err
}

// expect registers a new command's answer.
func (c *Client) expect(answer chan message) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return "", ErrClosed
	}
	c.next++
	id := strconv.FormatUint(c.next, 10)
	c.pending[id] = answer
	return id, nil
}

func (c *Client) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

func (c *Client) write(r request, file *os.File) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	b = append(b, '\n')
	if file == nil {
		_, err = c.conn.Write(b)
		return err
	}
	u, ok := c.conn.(*net.UnixConn)
	if !ok {
		return errors.New("descriptors travel over unix sockets only")
	}
	n, _, err := u.WriteMsgUnix(b, syscall.UnixRights(int(file.Fd())), nil)
	if err == nil && n < len(b) {
		_, err = c.conn.Write(b[n:])
	}
	return err
}

// read serves answers and events until the connection ends.
func (c *Client) read(in *bufio.Reader) {
	defer close(c.done)
	for {
		m, err := readMessage(in)
		if err != nil {
			break
		}
		switch m.kind() {
		case kindEvent:
			c.onEvent(m.event())
		case kindReturn, kindError:
			c.answer(m)
		case kindGreeting, kindUnknown: // nothing that we asked for
		}
	}
	_ = c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for _, answer := range c.pending {
		close(answer)
	}
	c.pending = nil
}

func (c *Client) answer(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer, ok := c.pending[m.id()]; ok {
		delete(c.pending, m.id())
		answer <- m // buffered: never blocks
	}
}

// Done is closed when the connection has ended and every event of it was delivered.
func (c *Client) Done() <-chan struct{} { return c.done }

// Ended reports whether Done is closed.
func (c *Client) Ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// Close ends the connection; QEMU goes on.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
