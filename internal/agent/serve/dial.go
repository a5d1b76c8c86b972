package serve

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/frame"
)

// dialTimeout is for a port of this very machine: it answers or it does not.
const dialTimeout = 5 * time.Second

// settleTimeout bounds the wait for services that a new identity has stopped: sshd above all.
const settleTimeout = 30 * time.Second

// dial connects the caller to a port on the guest's loopback.
func (s *Server) dial(w http.ResponseWriter, r *http.Request) error {
	port, err := strconv.ParseUint(r.URL.Query().Get("port"), 10, 16)
	if err != nil || port == 0 {
		return api.Errorf(api.CodeInvalid, "the port %q is not between 1 and 65535", r.URL.Query().Get("port"))
	}
	there, err := dialLoopback(r.Context(), int(port))
	if errors.Is(err, unix.ECONNREFUSED) {
		settled, cancel := context.WithTimeout(r.Context(), settleTimeout)
		s.o.System.Settled(settled)
		cancel()
		there, err = dialLoopback(r.Context(), int(port))
	}
	if err != nil {
		return api.Errorf(api.CodeUnreachable, "nothing answers on port %d in the guest: %w", port, err)
	}
	defer there.Close()
	conn, in, err := upgrade(w, r, api.UpgradeRaw)
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return err
	}
	join(frame.NewDuplex(conn, in), there.(*net.TCPConn))
	return nil
}

func dialLoopback(ctx context.Context, port int) (conn net.Conn, err error) {
	d := net.Dialer{Timeout: dialTimeout}
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err = d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil || !errors.Is(err, unix.ECONNREFUSED) {
			break
		}
	}
	return conn, err
}

// join copies both ways until both directions have ended, or one has been cut off.
func join(caller *frame.Duplex, there *net.TCPConn) {
	defer caller.Close()
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := io.Copy(there, onlyReader{caller}); err != nil {
			_ = there.SetLinger(0) // cut off: so shall be the other side
			_ = there.Close()
			return
		}
		_ = there.CloseWrite()
	})
	both.Go(func() {
		if _, err := io.Copy(caller, onlyReader{there}); err != nil {
			_ = caller.Close()
			return
		}
		_ = caller.CloseWrite()
	})
	both.Wait()
}
