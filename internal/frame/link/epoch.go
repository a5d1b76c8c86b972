package link

import (
	"io"
	"sync"

	"github.com/hashicorp/yamux"
)

// guestConn is what the guest's yamux of one epoch reads and writes.
type guestConn struct {
	l     *Listener
	epoch uint64
	nonce []byte
	inR   *io.PipeReader
	inW   *io.PipeWriter
	out   dataWriter
	mux   *yamux.Session // made in advance, or nil
	peers closings
	gone  chan struct{}
	once  sync.Once
}

// drop ends the epoch. It does not wait: a write to the port may be under way, and
// is harmless, since the host throws away the records of other epochs.
func (g *guestConn) drop() {
	g.once.Do(func() {
		close(g.gone)
		_ = g.inW.CloseWithError(io.EOF)
		_ = g.inR.CloseWithError(io.EOF)
	})
}

func (g *guestConn) put(rec []byte) error {
	g.l.wmu.Lock()
	defer g.l.wmu.Unlock()
	select {
	case <-g.gone:
		return io.ErrClosedPipe
	default:
	}
	_, err := g.l.port.Write(rec)
	return err
}

func (g *guestConn) Read(p []byte) (int, error) {
	n, err := g.inR.Read(p)
	g.peers.see(p[:n])
	if err != nil {
		g.peers.all()
	}
	return n, err
}

func (g *guestConn) Write(p []byte) (int, error) { return g.out.Write(p) }
func (g *guestConn) Close() error                { g.drop(); return nil }
