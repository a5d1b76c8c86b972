package daemon

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

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
		// Listeners are closed by us only: the old one when there is a new one, all by the server's end.
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
	if d.isShut() {
		return nil, nil
	}
	d.log.Warn("the socket has vanished; opening it again", "socket", old.path)
	next, err := d.listenAgain(old.path)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		return nil, errors.Join(os.Remove(next.path), next.UnixListener.Close())
	}
	d.sock = next
	return next, old.UnixListener.Close()
}

// listenAgain tries for a while: whoever empties the directory may not be done yet.
func (d *door) listenAgain(path string) (sock *socket, err error) {
	for range 20 {
		if sock, err = listen(path, d.uid); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return sock, err
		}
		select {
		case <-time.After(25 * time.Millisecond):
		case <-d.stop:
			return nil, err
		}
	}
	return nil, err
}

func (d *door) isShut() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.shut
}

// hide takes the socket away, so that new clients start the next daemon. Those that have
// connected are served until the server shuts down.
func (d *door) hide() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		return nil
	}
	d.shut = true
	close(d.stop)
	return d.sock.hide()
}

// wait returns when nothing is served any more: the server has shut down.
func (d *door) wait() error {
	err := d.hide()
	d.wg.Wait()
	return err
}
