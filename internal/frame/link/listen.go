package link

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/yamux"
)

// listener is the guest's end: it serves one epoch after the other.
type listener struct {
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
	// refused is the last epoch that was answered with BYE; for read only.
	refused uint64
}

// Listen serves the streams that hosts open over port, epoch after epoch, until the
// port's Read fails. Read must wait while there is no host (a virtio-serial port
// answers end-of-file then: see OpenPort); Write may. Close closes the port if it is
// an io.Closer.
func Listen(port io.ReadWriter) net.Listener {
	l := &listener{
		port:    port,
		streams: make(chan net.Conn),
		closing: make(chan struct{}),
		ended:   make(chan struct{}),
	}
	go l.read()
	return l
}

func (l *listener) read() {
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

func (l *listener) take(rec record) {
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
		ack := appendRecord(nil, kindAck, rec.epoch, cur.nonce)
		go func() {
			cur.answer(ack)
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

func (l *listener) begin(epoch uint64, nonce []byte) *guestConn {
	g := &guestConn{l: l, epoch: epoch, nonce: nonce, gone: make(chan struct{})}
	g.inR, g.inW = io.Pipe()
	g.out = dataWriter{epoch: epoch, put: g.put}
	l.current.Store(g)
	return g
}

func (l *listener) put(rec []byte) {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	_, _ = l.port.Write(rec)
}

// serve passes the epoch's streams on to Accept until the epoch is over.
func (l *listener) serve(g *guestConn) {
	mux, err := yamux.Server(g, muxConfig())
	if err != nil { // the configuration is constant
		g.drop()
		return
	}
	defer mux.Close()
	for {
		st, err := mux.AcceptStream()
		if err != nil {
			return
		}
		select {
		case l.streams <- newStream(st, &g.peers):
		case <-mux.CloseChan():
			return
		case <-l.closing:
			return
		case <-l.ended:
			return
		}
	}
}

// Accept waits for the next stream of whichever epoch.
func (l *listener) Accept() (net.Conn, error) {
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

func (l *listener) Close() error {
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

func (l *listener) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "serial" }
func (addr) String() string  { return "banger.agent" }
