package serve

import (
	"net"
	"sync"

	"banger/api"
	"banger/internal/frame"
)

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
