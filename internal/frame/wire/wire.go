package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// errBroken says that the other end does not keep to the framing.
var errBroken = errors.New("the other end of a wire has lost count")

// Wire is one end, for any number of goroutines that write and one that reads.
type Wire struct {
	// redial makes another connection in the place of one that broke; nil in the guest.
	redial func()
	// life ends with the wire.
	life   context.Context
	finish context.CancelCauseFunc

	// mu protects the following.
	mu sync.Mutex
	// came: there is a connection; room: there is room in kept; owed: much was read. All three: it is over.
	came, room, owed *sync.Cond
	id               id
	conn             *transport // nil while there is none
	err              error      // why it is over
	// kept is what was written and is not known to have been read by the other end: first is the number of its first byte,
	// sent that of the next one to be sent on the present connection.
	kept        ring
	first, sent uint64
	// read counts the bytes that were read here, told is what the other end knows of that.
	read, told uint64
	// writing: somebody writes to the connection; scratch is its.
	writing bool
	scratch []byte

	// In the host: answered, the guest knows the wire; retry makes the host begin anew with the connection that it is making; nil while it makes none.
	answered bool
	retry    context.CancelFunc

	// In the guest: what is done when no host has come again for so long since the last of so many losses.
	gone      func()
	goneAfter time.Duration
	losses    int
}

func newWire(life context.Context) *Wire {
	w := &Wire{scratch: make([]byte, 0, frameHeader+maxFrame)}
	w.came, w.room, w.owed = sync.NewCond(&w.mu), sync.NewCond(&w.mu), sync.NewCond(&w.mu)
	w.life, w.finish = context.WithCancelCause(life)
	context.AfterFunc(w.life, func() { w.end(context.Cause(w.life)) })
	return w
}

// Read returns io.EOF or another error only when the wire is over. Somebody must be reading all the time: by that alone it is
// learned what the other end has read, and that a connection has broken.
func (w *Wire) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		t := w.conn
		switch {
		case w.err != nil:
			return 0, w.err
		case t == nil:
			w.came.Wait()
			continue
		}
		w.mu.Unlock()
		n, told, peer, err := t.read(p)
		w.mu.Lock()
		if w.conn != t {
			continue // what it has brought comes once more
		}
		if err == nil && told {
			w.answered = true
			err = w.heard(peer)
		}
		if err != nil {
			w.lose(t, err)
			continue
		}
		if w.read += uint64(n); w.read-w.told >= window/4 {
			w.owed.Signal()
		}
		if n > 0 {
			return n, nil
		}
	}
}

// heard forgets what the other end has read. It is called with mu held.
func (w *Wire) heard(peer uint64) error {
	if peer < w.first || peer > w.sent {
		return errBroken
	}
	if n := int(peer - w.first); n > 0 {
		w.kept.drop(n)
		w.first = peer
		w.room.Broadcast()
	}
	return nil
}

// Write returns when all is kept here; it waits while there is no room.
func (w *Wire) Write(p []byte) (written int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(p) > 0 {
		if w.err != nil {
			return written, w.err
		}
		n := min(len(p), w.kept.room())
		if n == 0 {
			w.room.Wait()
			continue
		}
		w.kept.add(p[:n])
		p, written = p[n:], written+n
		w.send()
	}
	return written, nil
}

// due reports whether there is something to be said. It is called with mu held.
func (w *Wire) due() bool {
	return w.conn != nil && w.err == nil && (w.sent < w.first+uint64(w.kept.n) || w.read-w.told >= window/4)
}

// send sends what there is, unless somebody does already. It is called with mu held, and lets go of it meanwhile.
func (w *Wire) send() {
	if w.writing {
		return
	}
	w.writing = true
	for w.due() {
		t, from := w.conn, int(w.sent-w.first)
		n := min(w.kept.n-from, maxFrame)
		b := appendHeader(w.scratch[:0], uint32(n), w.read)[:frameHeader+n]
		w.kept.copyOut(b[frameHeader:], from)
		w.sent += uint64(n)
		w.told = w.read
		w.mu.Unlock()
		_, err := t.Write(b)
		w.mu.Lock()
		if t.last {
			t.sayBye()
		} else if err != nil {
			w.lose(t, err)
		}
	}
	w.writing = false
}

// tell tells what was read where nobody writes. Whoever reads must not: both ends would wait for each other.
func (w *Wire) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil {
		if w.due() && !w.writing {
			w.send()
			continue
		}
		w.owed.Wait()
	}
}

// lose is called with mu held when a connection has broken.
func (w *Wire) lose(t *transport, why error) {
	if w.conn != t {
		return
	}
	w.conn = nil
	_ = t.Close()
	host := w.redial != nil
	switch {
	case host && (errors.Is(why, errBye) || errors.Is(why, errForeign) || errors.Is(why, errBroken)):
		if errors.Is(why, errBye) {
			why = io.EOF
		}
		w.endLocked(why)
	case host:
		go w.redial()
	case errors.Is(why, errBye), errors.Is(why, errBroken):
		w.forget()
	default:
		w.await()
	}
}

// Cut ends the present connection, and one that is being made: it is known that both are of no more use. The wire goes on.
func (w *Wire) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.retry != nil {
		w.retry()
	}
	if w.conn != nil {
		w.lose(w.conn, net.ErrClosed)
	}
}

// join goes on over a connection: peer is what the other end has read. It is called with mu held and without a connection.
func (w *Wire) join(t *transport, peer uint64) error {
	w.sent = w.first + uint64(w.kept.n)
	if err := w.heard(peer); err != nil {
		return err
	}
	w.conn, w.sent = t, peer
	w.came.Broadcast()
	return nil
}

// Close ends the wire and, if it can, tells the other end.
func (w *Wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endLocked(net.ErrClosed)
	return nil
}

func (w *Wire) end(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endLocked(why)
}

func (w *Wire) endLocked(why error) {
	if w.err != nil {
		return
	}
	w.err = why
	w.finish(why)
	w.came.Broadcast()
	w.room.Broadcast()
	w.owed.Broadcast()
	t := w.conn
	if t == nil {
		return
	}
	w.conn = nil
	_ = t.SetDeadline(time.Now().Add(byeTime))
	if t.last = w.writing; !t.last {
		t.sayBye()
	}
}
