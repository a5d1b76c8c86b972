package link

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/yamux"
)

// Listener is the guest's end, a net.Listener: it serves one epoch after the other.
type Listener struct {
	port    io.ReadWriter
	streams chan net.Conn
	closing chan struct{} // closed by Close
	ended   chan struct{} // closed when the port can no longer be read; err is set by then
	err     error
	once    sync.Once

	// wmu makes records whole on the port.
	wmu sync.Mutex
	// current is the epoch that is served; nil before the first HELLO.
	current atomic.Pointer[guestConn]
	// spare is a session made in advance, for the next epoch; see Rest.
	spare atomic.Pointer[guestConn]
	// refused is the last epoch that was answered with BYE; for read only.
	refused uint64
}

// Listen serves the streams that hosts open over port, epoch after epoch, until the
// port's Read fails. Read must wait while there is no host (a virtio-serial port
// answers end-of-file then: see OpenPort); Write may. Close closes the port if it is
// an io.Closer.
func Listen(port io.ReadWriter) *Listener {
	l := &Listener{
		port:    port,
		streams: make(chan net.Conn),
		closing: make(chan struct{}),
		ended:   make(chan struct{}),
	}
	go l.read()
	return l
}

func (l *Listener) read() {
	// Tell a host that still speaks to the agent before us, or to the guest before its reboot.
	// On a goroutine of its own since it waits until there is a host; the lock makes sure
	// that an answer to a HELLO comes after it.
	locked := make(chan struct{})
	go func() {
		l.wmu.Lock()
		defer l.wmu.Unlock()
		close(locked)
		_, _ = l.port.Write(appendRecord(preamble(), kindBye, 0))
	}()
	<-locked
	in := newRecordReader(l.port, nil)
	for {
		rec, err := in.next()
		if err != nil {
			if cur := l.current.Load(); cur != nil {
				cur.drop()
			}
			l.err = err
			close(l.ended)
			return
		}
		l.take(rec)
	}
}

func (l *Listener) take(rec record) {
	cur := l.current.Load()
	switch rec.kind {
	case kindHello:
		if len(rec.payload) < nonceSize {
			return
		}
		nonce, flags := rec.payload[:nonceSize], rec.payload[nonceSize:]
		fresh := cur == nil || cur.epoch != rec.epoch || !bytes.Equal(cur.nonce, nonce)
		if fresh {
			if cur != nil {
				if len(flags) > 0 && flags[0]&helloThawed != 0 {
					cur.peers.thawed.Store(true)
				}
				cur.drop()
			}
			cur = l.begin(rec.epoch, bytes.Clone(nonce))
		}
		var speech []byte
		var first *firstStream
		if len(flags) > 1 && flags[0]&helloSpeech != 0 && flags[1] == Speech {
			speech = []byte{Speech}
			if fresh && flags[0]&helloFirst != 0 {
				first = &firstStream{conn: cur}
				first.in.Reset(bytes.Clone(flags[2:]))
			}
		}
		ack := appendRecord(nil, kindAck, rec.epoch, cur.nonce, speech)
		go func() {
			_ = cur.put(ack)
			if first != nil {
				l.pass(first, cur.gone)
			}
			if fresh {
				l.serve(cur)
			}
		}()
	case kindData:
		if cur != nil && cur.epoch == rec.epoch {
			if _, err := cur.inW.Write(rec.payload); err == nil {
				return
			}
		}
		if l.refused != rec.epoch { // say it once
			l.refused = rec.epoch
			go l.put(appendRecord(nil, kindBye, rec.epoch))
		}
	}
}

func (l *Listener) begin(epoch uint64, nonce []byte) *guestConn {
	g := l.spare.Swap(nil)
	if g == nil {
		g = l.newConn()
	}
	g.epoch, g.nonce = epoch, nonce
	g.out = dataWriter{epoch: epoch, put: g.put}
	l.current.Store(g)
	return g
}

func (l *Listener) newConn() *guestConn {
	g := &guestConn{l: l, gone: make(chan struct{})}
	g.inR, g.inW = io.Pipe()
	return g
}

// Rest returns what ends the present epoch and makes the next one's session, in a guest that is about to be frozen: what is
// done before that, no clone has to do. Called in another epoch, such as a clone's, it does nothing.
func (l *Listener) Rest() func() {
	cur := l.current.Load()
	return func() {
		if cur != nil && l.current.CompareAndSwap(cur, nil) {
			cur.drop()
			l.prepare()
		}
	}
}

// HangUp ends the present epoch: its host is gone for good.
func (l *Listener) HangUp() {
	if cur := l.current.Swap(nil); cur != nil {
		cur.drop()
	}
}

// prepare makes a session in advance.
func (l *Listener) prepare() {
	g := l.newConn()
	mux, err := yamux.Server(g, muxConfig()) // it reads, and says nothing before it has read something
	if err != nil {
		return
	}
	g.mux = mux
	if old := l.spare.Swap(g); old != nil {
		old.drop()
	}
}

func (l *Listener) put(rec []byte) {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	_, _ = l.port.Write(rec)
}

// serve passes the epoch's streams on to Accept until the epoch is over.
func (l *Listener) serve(g *guestConn) {
	mux := g.mux
	if mux == nil {
		var err error
		if mux, err = yamux.Server(g, muxConfig()); err != nil { // the configuration is constant
			g.drop()
			return
		}
	}
	defer mux.Close()
	for {
		st, err := mux.AcceptStream()
		if err != nil {
			return
		}
		if !l.pass(newStream(st, &g.peers), mux.CloseChan()) {
			return
		}
	}
}

// pass hands a stream to Accept; false when nobody will take it.
func (l *Listener) pass(c net.Conn, gone <-chan struct{}) bool {
	select {
	case l.streams <- c:
		return true
	case <-gone:
	case <-l.closing:
	case <-l.ended:
	}
	return false
}

// Accept waits for the next stream of whichever epoch.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.closing:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.streams:
		return c, nil
	case <-l.closing:
		return nil, net.ErrClosed
	case <-l.ended:
		return nil, l.err
	}
}

func (l *Listener) Close() error {
	l.once.Do(func() {
		close(l.closing)
		if cur := l.current.Load(); cur != nil {
			cur.drop()
		}
		if c, ok := l.port.(io.Closer); ok {
			_ = c.Close()
		}
	})
	return nil
}

func (l *Listener) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "serial" }
func (addr) String() string  { return "banger.agent" }
