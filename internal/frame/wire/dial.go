package wire

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"time"
)

// redialPause is between two connections of which the first came to nothing.
const redialPause = 20 * time.Millisecond

// Dial makes a new wire to a guest, which ends with life. connect makes a connection, for as long as its context allows; when it fails after that,
// the wire is over. What is written goes at once: a guest never refuses a new wire.
func Dial(ctx, life context.Context, connect func(context.Context) (net.Conn, error)) (*Wire, error) {
	var h hello
	h.say = sayNew
	if _, err := rand.Read(h.id[:]); err != nil {
		return nil, err
	}
	conn, err := connect(ctx)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(handshakeTime))
	if _, err := conn.Write(h.append(nil)); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("cannot begin a wire to the guest: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	w := newWire(life)
	w.id = h.id
	w.redial = func() { w.again(connect) }
	w.conn = newTransport(conn)
	w.conn.answer = true
	go w.tell()
	return w, nil
}

// again makes connections until the guest has taken one, or does not know the wire.
func (w *Wire) again(connect func(context.Context) (net.Conn, error)) {
	for {
		ctx, cancel := context.WithCancel(w.life)
		w.mu.Lock()
		w.retry = cancel
		w.mu.Unlock()
		conn, err := connect(ctx)
		if err != nil && ctx.Err() == nil {
			cancel()
			w.end(err)
			return
		}
		if err == nil {
			err = w.resume(ctx, newTransport(conn))
		}
		cancel()
		if err == nil {
			return
		}
		select {
		case <-time.After(redialPause):
		case <-w.life.Done():
			return
		}
	}
}

// resume goes on over another connection. There is nobody else who would give the wire one.
func (w *Wire) resume(ctx context.Context, t *transport) (err error) {
	defer func() {
		if err != nil {
			_ = t.Close()
		}
	}()
	w.mu.Lock()
	h := hello{sayNew, w.id, w.read}
	if w.answered {
		h.say = sayAgain
	}
	w.mu.Unlock()
	_ = t.SetDeadline(time.Now().Add(handshakeTime))
	stop := context.AfterFunc(ctx, func() { _ = t.Close() })
	if _, err := t.Write(h.append(nil)); err != nil {
		return err
	}
	say, peer, err := readAnswer(t.in)
	if err != nil && err != errForeign { //nolint:errorlint // it is never wrapped
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if !stop() {
		return context.Cause(ctx)
	}
	w.retry = nil
	if err == nil && say == sayNo {
		err = errUnknown
	}
	if err == nil {
		_ = t.SetDeadline(time.Time{})
		w.told, w.answered = h.read, true
		err = w.join(t, peer)
	}
	if err != nil {
		w.endLocked(err)
		_ = t.Close()
		return nil //nolint:nilerr // the wire is over, and there is no more to try
	}
	w.send()
	return nil
}

var errUnknown = fmt.Errorf("the guest knows nothing of this wire: %w", net.ErrClosed)
