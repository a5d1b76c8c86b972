package daemon

import (
	"errors"
	"log/slog"
	"net"
	"sync"

	"banger/internal/config"
	"banger/internal/server"
)

// door keeps a socket in place for as long as the daemon lives.
type door struct {
	srv  *server.Server
	log  *slog.Logger
	end  func()
	stop chan struct{}
	uid  int
	wg   sync.WaitGroup

	// mu protects the following.
	mu   sync.Mutex
	sock *socket
	shut bool
}

// open begins to serve. If the socket vanishes it is opened again; where that cannot be, the
// daemon ends (by end), so that the next command can start one that is reachable.
func open(cfg *config.Config, stdio IO, srv *server.Server, log *slog.Logger, end func()) (*door, error) {
	sock, err := listen(cfg.Paths.Socket(), stdio.UID)
	if err != nil {
		return nil, err
	}
	d := &door{srv: srv, log: log, end: end, stop: make(chan struct{}), uid: stdio.UID, sock: sock}
	d.serve(sock)
	d.wg.Go(func() { d.keepOpen(sock) })
	return d, nil
}

func (d *door) serve(sock *socket) {
	d.wg.Go(func() {
		// Listeners are closed by us only: when the socket has moved, and at the end.
		if err := d.srv.Serve(sock.UnixListener); err != nil && !errors.Is(err, net.ErrClosed) {
			d.log.Error("cannot serve", "error", err)
			d.end()
		}
	})
}

func (d *door) keepOpen(sock *socket) {
	for {
		if err := sock.vanished(d.stop); err != nil {
			d.log.Warn("cannot watch the socket", "error", err)
			return
		}
		next, err := d.openAgain(sock)
		if err != nil {
			d.log.Error("cannot open the socket again; ending, so that another daemon can", "error", err)
			d.end()
		}
		if next == nil {
			return
		}
		d.serve(next)
		sock = next
	}
}

// openAgain returns nil when the daemon is ending.
func (d *door) openAgain(old *socket) (*socket, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		return nil, nil
	}
	d.log.Warn("the socket has vanished; opening it again", "socket", old.path)
	next, err := listen(old.path, d.uid)
	if err != nil {
		return nil, err
	}
	d.sock = next
	return next, old.Close()
}

// close takes no more connections. Those that are open stay.
func (d *door) close() error {
	d.mu.Lock()
	if d.shut {
		d.mu.Unlock()
		return nil
	}
	d.shut = true
	close(d.stop)
	err := d.sock.Close()
	d.mu.Unlock()
	d.wg.Wait()
	return err
}
