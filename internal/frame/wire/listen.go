package wire

import (
	"context"
	"errors"
	"net"
	"time"
)

// Listen makes the guest's end. When no host has come again for goneAfter, what was on its way is dropped, and Serve's gone is called.
func Listen(goneAfter time.Duration) *Wire {
	w := newWire(context.Background())
	w.goneAfter = goneAfter
	go w.tell()
	return w
}

// Serve takes the hosts' connections until l fails; then the wire is over. gone is called when the host of the present wire
// is gone for good, and not when another takes its place: that one says so itself.
func (w *Wire) Serve(l net.Listener, gone func()) error {
	w.mu.Lock()
	w.gone = gone
	w.mu.Unlock()
	for {
		conn, err := l.Accept()
		if err != nil {
			w.end(err)
			return err
		}
		go w.take(newTransport(conn))
	}
}

// take answers a host.
func (w *Wire) take(t *transport) {
	if err := w.greet(t); err != nil {
		_ = t.Close()
	}
}

func (w *Wire) greet(t *transport) error {
	_ = t.SetDeadline(time.Now().Add(handshakeTime))
	h, err := readHello(t.in)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if known := h.id == w.id && h.id != (id{}); !known && h.say == sayAgain {
		_, err := t.Write(appendAnswer(nil, sayNo, 0))
		return errors.Join(errUnknown, err)
	} else if !known {
		w.replace(h.id)
	}
	if old := w.conn; old != nil { // nothing of it counts any more
		w.conn = nil
		_ = old.Close()
	}
	// A new connection has room for this: it does not block.
	if _, err := t.Write(appendAnswer(nil, sayYes, w.read)); err != nil {
		w.await()
		return err
	}
	_ = t.SetDeadline(time.Time{})
	w.told = w.read
	if err := w.join(t, h.read); err != nil {
		w.forget()
		return err
	}
	w.send()
	return nil
}

// replace makes the wire another: of the one before nothing is left. It is called with mu held.
func (w *Wire) replace(by id) {
	w.id = by
	w.kept = ring{}
	w.first, w.sent, w.read, w.told = 0, 0, 0, 0
	w.room.Broadcast()
}

// await gives the host time to come again. It is called with mu held and without a connection.
func (w *Wire) await() {
	w.losses++
	now := w.losses
	time.AfterFunc(w.goneAfter, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.conn == nil && w.err == nil && w.losses == now {
			w.forget()
		}
	})
}

// forget is the end of the present wire, but not of this end: another may come. It is called with mu held.
func (w *Wire) forget() {
	w.replace(id{})
	if w.gone != nil {
		go w.gone()
	}
}
