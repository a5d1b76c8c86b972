package serve

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"banger/api"
	"banger/internal/frame"
)

// exec runs one command over an upgraded stream; package frame tells the conversation.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) error {
	conn, in, err := upgrade(w, r, api.UpgradeFrames)
	if err != nil {
		return err
	}
	defer conn.Close()
	out := frame.NewWriter(conn)
	frames := frame.NewReader(in)
	if err := s.execute(conn, frames, out); err != nil {
		if errors.Is(err, errGone) {
			return nil
		}
		e := api.AsError(err)
		_ = out.Control(api.Control{Type: api.ControlError, Error: e})
	}
	return nil
}

// errGone says that there is nobody left to talk to.
var errGone = errors.New("the caller has gone")

func (s *Server) execute(conn net.Conn, in *frame.Reader, out *frame.Writer) error {
	f, err := in.Read()
	if err != nil {
		return orGone(err)
	}
	m, err := f.Control()
	if err != nil {
		return err
	}
	if m.Type != api.ControlStart || m.Exec == nil {
		return api.Errorf(api.CodeInvalid, "a stream begins with start, not with %q", m.Type)
	}
	spec := *m.Exec
	began := time.Now()
	c, err := s.place.start(spec)
	var cannot *startError
	if errors.As(err, &cannot) {
		_ = out.Write(frame.Stderr, []byte("banger: "+cannot.reason+lineEnd(spec.TTY)))
		return out.Control(api.Control{
			Type: api.ControlExit, ExitCode: cannot.exitCode, DurationMS: time.Since(began).Milliseconds(),
			Error: api.Errorf(api.CodeInvalid, "%s", cannot.reason),
		})
	}
	if err != nil {
		return err
	}
	caller := newCaller(conn, in, c, spec)
	go caller.listen()
	var pumps sync.WaitGroup
	pumps.Go(func() { pump(c.stdout, c.exited, func(p []byte) error { return out.Write(frame.Stdout, p) }) })
	if c.stderr != nil {
		pumps.Go(func() { pump(c.stderr, c.exited, func(p []byte) error { return out.Write(frame.Stderr, p) }) })
	}
	res := c.await(time.Duration(spec.TimeoutMS)*time.Millisecond, caller.gone)
	if !caller.here() {
		_ = conn.Close() // lets go of a pump that writes
	}
	pumps.Wait()
	return out.Control(api.Control{
		Type: api.ControlExit, ExitCode: res.exitCode, Signal: res.signal, TimedOut: res.timedOut,
		DurationMS: res.duration.Milliseconds(),
	})
}

func lineEnd(tty bool) string {
	if tty {
		return "\r\n"
	}
	return "\n"
}

// orGone keeps what the caller did wrong and drops what only says that it is gone.
func orGone(err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		return err
	}
	return errGone
}

// stdinAhead is how much of stdin may be waiting for the command to read it. Signals come
// behind stdin on the same stream, so there must be room for some.
const stdinAhead = 256 << 10

// caller is the one whose command it is.
type caller struct {
	in   *frame.Reader
	c    *command
	spec api.ExecSpec
	conn net.Conn
	// gone is closed when the caller has disconnected: the command is then cancelled. lost is closed instead when
	// the caller is that of the guest which this one was thawed from: the command goes on, unheard. It
	// may be waiting for stdin: that stays open, since what came of it is not the whole.
	gone, lost chan struct{}
	once       sync.Once
	// stdin is what has come for the command; closed at its end.
	stdin chan []byte
}

func newCaller(conn net.Conn, in *frame.Reader, c *command, spec api.ExecSpec) *caller {
	const chunks = stdinAhead / frame.MaxPayload
	k := &caller{in: in, c: c, spec: spec, conn: conn, gone: make(chan struct{}), lost: make(chan struct{}), stdin: make(chan []byte, chunks)}
	// A transport that can tell at once when the caller has closed does so; otherwise it is seen by
	// reading, which stands still while the command does not take its stdin.
	if t, ok := conn.(interface{ PeerClosed() <-chan struct{} }); ok {
		go func() {
			select {
			case <-t.PeerClosed():
				k.leave()
			case <-k.gone:
			case <-k.lost:
			case <-c.exited:
			}
		}()
	}
	go k.feed()
	return k
}

// leave is called when the connection has ended.
func (k *caller) leave() {
	k.once.Do(func() {
		if t, ok := k.conn.(interface{ Thawed() bool }); ok && t.Thawed() {
			close(k.lost)
		} else {
			close(k.gone)
		}
	})
}

func (k *caller) here() bool {
	select {
	case <-k.gone:
		return false
	case <-k.lost:
		return false
	default:
		return true
	}
}

// listen takes the caller's frames until the caller has gone.
func (k *caller) listen() {
	stdin := k.stdin
	end := func() {
		if stdin != nil {
			close(stdin)
			stdin = nil
		}
	}
	defer end()
	defer k.leave() // first: whether stdin ends here depends on it
	for {
		f, err := k.in.Read()
		if err != nil {
			return
		}
		switch f.Channel {
		case frame.Stdin:
			if stdin == nil || len(f.Payload) == 0 {
				continue
			}
			select {
			case stdin <- append([]byte(nil), f.Payload...):
			case <-k.c.exited:
			case <-k.gone:
				return
			case <-k.lost:
				return
			}
		case frame.Control:
			m, err := f.Control()
			if err != nil {
				return
			}
			if m.Type == api.ControlEOF {
				end()
				continue
			}
			k.control(m)
		}
	}
}

func (k *caller) control(m api.Control) {
	switch m.Type {
	case api.ControlResize:
		if k.c.tty != nil && m.Rows > 0 && m.Cols > 0 {
			_ = resize(k.c.tty, m.Rows, m.Cols)
		}
	case api.ControlSignal:
		if sig, err := parseSignal(m.Signal); err == nil && !k.c.ended() {
			k.c.group.signal(sig)
		}
	}
}

// feed writes stdin to the command. A command that has closed its stdin gets no more; the
// rest is thrown away.
func (k *caller) feed() {
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-k.c.exited:
			if k.c.stdin != nil && k.c.tty == nil {
				_ = k.c.stdin.Close() // lets go of a write to a pipe that a child still holds
			}
		case <-stop:
		}
	}()
	broken := k.c.stdin == nil || !k.spec.Stdin
	for p := range k.stdin {
		if !broken {
			_, err := k.c.stdin.Write(p)
			broken = err != nil
		}
	}
	if k.here() && k.spec.Stdin {
		k.c.closeStdin()
	}
}

// upgrade answers 101 and takes the connection over. in holds what was read ahead.
func upgrade(w http.ResponseWriter, r *http.Request, token string) (conn net.Conn, in io.Reader, err error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), token) {
		return nil, nil, api.Errorf(api.CodeInvalid, "this call needs the header Upgrade: %s", token)
	}
	hj, ok := w.(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("the connection cannot be taken over")
	}
	conn, rw, err := hj.Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot take the connection over: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", token); err != nil {
		_ = conn.Close()
		return nil, nil, errGone
	}
	return conn, rw.Reader, nil
}
