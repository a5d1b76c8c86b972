package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/yamux"
)

const nonceSize = 16

// helloEvery is how often an unanswered HELLO is repeated: bytes are lost when a
// guest reboots while they are under way.
const helloEvery = time.Second

// Session is the host's end of one epoch.
type Session struct {
	mux  *yamux.Session
	conn *hostConn
	// brief: the guest knows this version of package brief.
	brief bool
	// asked: the guest has been told something with the greeting, and answers.
	asked bool
}

// Dial greets the guest at the other end of conn and returns the session that it
// answers with. epoch must differ from that of every earlier session with the same
// guest (the time in nanoseconds will do). It waits for as long as ctx allows: a
// guest that is still booting answers once its agent runs. On error conn is closed;
// otherwise Close of the session closes it.
func Dial(ctx context.Context, conn io.ReadWriteCloser, epoch uint64) (*Session, error) {
	return begin(ctx, conn, epoch, []byte{helloSpeech, Speech})
}

// DialThawed is Dial for the first session with a guest that has just been thawed: the streams
// that it remembers were lost to the thaw, and not because somebody has let go of them.
// Whoever fails with it tries again with it, until there has been a session.
//
// first, of at most MaxFirst bytes, is what the guest's first stream holds; nil for none. Session.Answer is what it says to that.
func DialThawed(ctx context.Context, conn io.ReadWriteCloser, epoch uint64, first []byte) (*Session, error) {
	say := []byte{helloThawed | helloSpeech, Speech}
	if first != nil {
		say[0] |= helloFirst
		say = append(say, first...)
	}
	return begin(ctx, conn, epoch, say)
}

func begin(ctx context.Context, conn io.ReadWriteCloser, epoch uint64, say []byte) (*Session, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	brief, rest, err := greet(conn, epoch, say)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("cannot greet the guest's agent: %w", err)
	}
	h := &hostConn{conn: conn, epoch: epoch, in: newRecordReader(conn, rest), answer: make(chan []byte, 1)}
	h.out = dataWriter{epoch: epoch, put: func(rec []byte) error { _, err := conn.Write(rec); return err }}
	mux, err := yamux.Client(h, muxConfig())
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("cannot start a session with the guest: %w", err)
	}
	return &Session{mux: mux, conn: h, brief: brief, asked: brief && say[0]&helloFirst != 0}, nil
}

// greet says HELLO until it is answered, and returns whether the guest's speech is ours, and the bytes read beyond the answer.
// What say holds comes behind the nonce.
func greet(conn io.ReadWriter, epoch uint64, say []byte) (brief bool, rest []byte, err error) {
	nonce := make([]byte, nonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return false, nil, err
	}
	answered := make(chan struct{})
	said := make(chan error, 1)
	rec := appendRecord(nil, kindHello, epoch, nonce, say)
	go func() { said <- hello(conn, rec, answered) }()

	// The answer is searched for as a string of bytes, not as a record: before it may stand
	// the beginning of a record whose rest never comes.
	want, short := appendRecord(nil, kindAck, epoch, nonce, []byte{Speech}), appendRecord(nil, kindAck, epoch, nonce)
	buf := make([]byte, 0, 64<<10)
	for {
		n, err := conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		for _, ack := range [][]byte{want, short} {
			if i := bytes.Index(buf, ack); i >= 0 {
				close(answered)
				return len(ack) == len(want), buf[i+len(ack):], <-said
			}
		}
		if err != nil {
			close(answered)
			return false, nil, err
		}
		if keep := len(want) - 1; len(buf) > keep {
			buf = append(buf[:0], buf[len(buf)-keep:]...)
		}
	}
}

func hello(w io.Writer, rec []byte, answered <-chan struct{}) error {
	if _, err := w.Write(append(preamble(), rec...)); err != nil {
		return err
	}
	again := time.NewTicker(helloEvery)
	defer again.Stop()
	for {
		select {
		case <-answered:
			return nil
		case <-again.C:
			if _, err := w.Write(rec); err != nil {
				return err
			}
		}
	}
}

// Open starts a new stream to the agent. It does not wait for the agent; the first
// read will.
func (s *Session) Open(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	type opened struct {
		st  *yamux.Stream
		err error
	}
	ch := make(chan opened, 1)
	go func() { st, err := s.mux.OpenStream(); ch <- opened{st, err} }()
	select {
	case o := <-ch:
		if o.err != nil {
			return nil, fmt.Errorf("cannot open a stream to the guest: %w", o.err)
		}
		st := newStream(o.st, &s.conn.peers)
		st.brief = s.brief
		return st, nil
	case <-ctx.Done():
		go func() {
			if o := <-ch; o.err == nil {
				_ = newStream(o.st, &s.conn.peers).Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
}

// Answer is what the guest has written to the stream that came with the greeting, once it has closed that; nil where none came, or the
// guest's speech is another. It is to be had once.
func (s *Session) Answer(ctx context.Context) ([]byte, error) {
	if !s.asked {
		return nil, nil
	}
	select {
	case a := <-s.conn.answer:
		return a, nil
	case <-s.Done():
		return nil, fmt.Errorf("cannot read what the guest answers: %w", io.ErrUnexpectedEOF)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Streams is the number of streams that are open.
func (s *Session) Streams() int { return s.mux.NumStreams() }

// Done is closed when the session has ended: the connection broke, the guest
// rebooted, its agent was restarted, or Close was called.
func (s *Session) Done() <-chan struct{} { return s.mux.CloseChan() }

// Close ends every stream and the connection.
func (s *Session) Close() error {
	return errors.Join(s.mux.Close(), ignoreClosed(s.conn.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

// hostConn is what the host's yamux reads and writes.
type hostConn struct {
	conn  io.ReadWriteCloser
	epoch uint64
	in    *recordReader
	left  []byte // of the last record's payload
	out   dataWriter
	peers closings
	// answer gets what the guest says to the greeting.
	answer chan []byte
}

func (h *hostConn) Read(p []byte) (int, error) {
	n, err := h.read(p)
	h.peers.see(p[:n])
	if err != nil {
		h.peers.all()
	}
	return n, err
}

func (h *hostConn) read(p []byte) (int, error) {
	for len(h.left) == 0 {
		rec, err := h.in.next()
		if err != nil {
			return 0, err
		}
		switch {
		case rec.kind == kindData && rec.epoch == h.epoch:
			h.left = rec.payload
		case rec.kind == kindAnswer && rec.epoch == h.epoch:
			select {
			case h.answer <- bytes.Clone(rec.payload):
			default: // there is only one
			}
		case rec.kind == kindBye && (rec.epoch == 0 || rec.epoch == h.epoch):
			return 0, io.EOF
		}
	}
	n := copy(p, h.left)
	h.left = h.left[n:]
	return n, nil
}

func (h *hostConn) Write(p []byte) (int, error) { return h.out.Write(p) }
func (h *hostConn) Close() error                { return h.conn.Close() }
