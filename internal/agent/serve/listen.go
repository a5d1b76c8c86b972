package serve

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"

	"banger/api"
	"banger/internal/frame"
	"banger/internal/frame/brief"
)

// Serve answers the calls that come over l until that fails: those of package brief itself, all others by h, whose Handler
// is this Server.
func (s *Server) Serve(l net.Listener, h *http.Server) error {
	rest := &calls{Listener: l, conns: make(chan net.Conn), ended: make(chan struct{})}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				rest.err = err
				close(rest.ended)
				return
			}
			go s.begin(conn, rest)
		}
	}()
	return h.Serve(rest)
}

// calls is a listener for the calls that are HTTP.
type calls struct {
	net.Listener
	conns chan net.Conn
	ended chan struct{} // closed when Accept fails with err
	err   error
}

func (c *calls) Accept() (net.Conn, error) {
	select {
	case conn := <-c.conns:
		return conn, nil
	case <-c.ended:
		return nil, c.err
	}
}

// begun is a connection of which some has been read ahead.
type begun struct {
	net.Conn
	in *bufio.Reader
}

func (b *begun) Read(p []byte) (int, error) {
	if b.in.Buffered() == 0 {
		return b.Conn.Read(p)
	}
	return b.in.Read(p)
}

// PeerClosed and Thawed are the connection's own, where it has them: see newCaller.
func (b *begun) PeerClosed() <-chan struct{} {
	if c, ok := b.Conn.(interface{ PeerClosed() <-chan struct{} }); ok {
		return c.PeerClosed()
	}
	return nil
}

func (b *begun) Thawed() bool {
	c, ok := b.Conn.(interface{ Thawed() bool })
	return ok && c.Thawed()
}

// readAhead is what most calls fit in.
const readAhead = 4 << 10

func (s *Server) begin(conn net.Conn, rest *calls) {
	in := bufio.NewReaderSize(conn, readAhead)
	first, err := in.Peek(1)
	if err != nil {
		_ = conn.Close()
		return
	}
	if brief.IsFrame(first[0]) {
		defer conn.Close()
		s.brief(conn, in)
		return
	}
	select {
	case rest.conns <- &begun{conn, in}:
	case <-rest.ended:
		_ = conn.Close()
	}
}

// brief answers one call of package brief.
func (s *Server) brief(conn net.Conn, in *bufio.Reader) {
	frames, out := frame.NewReader(in), frame.NewWriter(conn)
	f, err := frames.Read()
	switch {
	case err != nil:
		err = orGone(err)
	case f.Channel == frame.Start:
		err = s.briefExec(conn, f.Payload, frames, out)
	case f.Channel == frame.Identity:
		err = s.briefIdentity(f.Payload, out)
	default:
		err = api.Errorf(api.CodeInvalid, "a stream does not begin with a frame of channel %d", f.Channel)
	}
	if err != nil && !errors.Is(err, errGone) {
		e := api.AsError(err)
		if e.Code == api.CodeInternal {
			s.log.Warn("a call failed", "channel", f.Channel, "err", err)
		}
		_ = out.Control(api.Control{Type: api.ControlError, Error: e})
	}
}

func (s *Server) briefExec(conn net.Conn, message []byte, frames *frame.Reader, out *frame.Writer) error {
	spec, err := brief.Exec(message)
	if err != nil {
		return err
	}
	exit, err := s.execute(conn, spec, frames, out)
	if err == nil && exit.Error != nil {
		return out.Control(exit)
	}
	if err == nil {
		err = out.Write(frame.Exit, brief.AppendExit(nil, exit))
	}
	return err
}

func (s *Server) briefIdentity(message []byte, out *frame.Writer) error {
	p, err := brief.Personalise(message)
	if err != nil {
		return err
	}
	h, err := s.o.System.Personalise(context.Background(), p)
	if err != nil {
		return err
	}
	h.Now = s.o.Now()
	return out.Write(frame.State, brief.AppendHealth(nil, h))
}
