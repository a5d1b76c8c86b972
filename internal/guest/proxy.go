package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"banger/api"
	"banger/internal/frame"
)

// Hooks are told what passes through a Proxy; all may be nil. Start and Output are called
// in order and hold the stream up while they run.
type Hooks struct {
	// Start may change the spec before the guest sees it; an error refuses the command.
	Start func(spec *api.ExecSpec) error
	// Output gets what the command writes; p is valid during the call only.
	Output func(ch frame.Channel, p []byte)
	// Why may put a better reason in the place of the one for which there is no exit.
	Why func(err error) error
	// End gets the exit, or why there is none.
	End func(exit api.Control, err error)
}

// Proxy passes the frames of a command between a client and the guest, which it
// connects to once the client has said start. It returns when the exit (or an error) has been passed on, or
// the client has gone, which cancels the command. It closes neither client nor what
// is behind it; the error is for the log, the client has been told.
func (c *Client) Proxy(ctx context.Context, client io.ReadWriter, h Hooks) error {
	in, out := frame.NewReader(client), frame.NewWriter(client)
	exit, err := c.proxy(ctx, client, in, out, h)
	if err != nil && h.Why != nil {
		err = h.Why(err)
	}
	if h.End != nil {
		h.End(exit, err)
	}
	if err == nil {
		return out.Control(exit)
	}
	_ = out.Control(api.Control{Type: api.ControlError, Error: api.AsError(err)})
	return err
}

func (c *Client) proxy(ctx context.Context, client io.ReadWriter, in *frame.Reader, out *frame.Writer, h Hooks) (api.Control, error) {
	f, err := in.Read()
	if err != nil {
		return api.Control{}, clientGone(err)
	}
	start, err := f.Control()
	if err != nil {
		return api.Control{}, err
	}
	if start.Type != api.ControlStart || start.Exec == nil {
		return api.Control{}, api.Errorf(api.CodeInvalid, "a stream begins with start, not with %q", start.Type)
	}
	if h.Start != nil {
		if err := h.Start(start.Exec); err != nil {
			return api.Control{}, err
		}
	}
	conn, err := c.start(ctx, *start.Exec)
	if err != nil {
		return api.Control{}, err
	}
	return pass(ctx, client, in, out, conn, h)
}

// pass carries frames both ways until the guest's exit, which it returns.
func pass(ctx context.Context, client io.ReadWriter, in *frame.Reader, out *frame.Writer, conn net.Conn, h Hooks) (api.Control, error) {
	link := &passage{conn: conn, gone: make(chan struct{}), done: make(chan struct{})}
	defer link.end()
	stop := context.AfterFunc(ctx, link.end)
	defer stop()
	go link.fromClient(in, frame.NewWriter(conn))
	go link.watch(client)

	exit, err := receive(frame.NewReader(conn), func(ch frame.Channel, p []byte) error {
		if h.Output != nil {
			h.Output(ch, p)
		}
		if err := out.Write(ch, p); err != nil {
			link.leave(nil)
			return err
		}
		return nil
	})
	if err == nil {
		return exit, nil
	}
	select {
	case <-link.gone:
		return api.Control{}, clientGone(link.why)
	default:
		return api.Control{}, broken(ctx, err)
	}
}

func clientGone(err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		return err
	}
	return api.Errorf(api.CodeCancelled, "the caller has gone")
}

// passage is one stream to the guest on behalf of a client.
type passage struct {
	conn     net.Conn
	gone     chan struct{} // closed when the client has gone, or has said what makes no sense
	why      error         // what it said; nil if it has just gone. Set before gone is closed.
	done     chan struct{} // closed when it is over
	goneOnce sync.Once
	doneOnce sync.Once
}

func (p *passage) leave(why error) {
	p.goneOnce.Do(func() {
		p.why = why
		close(p.gone)
	})
	p.end()
}

// end closes the stream to the guest, which cancels a command that still runs.
func (p *passage) end() {
	p.doneOnce.Do(func() { close(p.done); _ = p.conn.Close() })
}

// fromClient passes on what the client says until it has gone.
func (p *passage) fromClient(in *frame.Reader, toGuest *frame.Writer) {
	for {
		f, err := in.Read()
		if err != nil {
			p.leave(err)
			return
		}
		if f.Channel != frame.Stdin && f.Channel != frame.Control {
			continue
		}
		if err := toGuest.Write(f.Channel, f.Payload); err != nil {
			return // the guest's end says why
		}
	}
}

// stalledEvery is how often a client is looked after that is not being read from,
// because the command does not take its stdin.
const stalledEvery = time.Second

// watch notices that the client has gone even while fromClient stands still.
func (p *passage) watch(client io.ReadWriter) {
	hungUp := hangUp(client)
	if hungUp == nil {
		return
	}
	t := time.NewTicker(stalledEvery)
	defer t.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-t.C:
			if hungUp() {
				p.leave(nil)
				return
			}
		}
	}
}
