package server

import (
	"context"
	"net"

	"golang.org/x/sys/unix"

	"banger/api"
)

// access says who may use a route, and when. A route without any is closed to everybody.
type access int

const (
	// owner lets in the daemon's own uid and root.
	owner access = 1 << iota
	// early is answered while the daemon still looks for its VMs.
	early
)

type peerKey struct{}

// withPeer asks the kernel, once per connection, who is at the other end.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	cred, err := peerOf(conn)
	if err != nil {
		return ctx // allow refuses whoever has no credentials
	}
	return context.WithValue(ctx, peerKey{}, cred)
}

func peerOf(conn net.Conn) (*unix.Ucred, error) {
	sc, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, net.UnknownNetworkError(conn.LocalAddr().Network())
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	return cred, credErr
}

// allow refuses peers that a cannot let in, and holds back those that come too early.
func (s *Server) allow(ctx context.Context, a access) error {
	cred, ok := ctx.Value(peerKey{}).(*unix.Ucred)
	switch {
	case !ok:
		return api.Errorf(api.CodeDenied, "the kernel does not say who you are")
	case a&owner == 0 || (int(cred.Uid) != s.UID && cred.Uid != 0):
		return api.Errorf(api.CodeDenied, "this daemon serves uid %d and root only, you are uid %d", s.UID, cred.Uid).
			WithHint("use a daemon of your own: unset BANGER_RUNTIME_DIR and BANGER_STATE_DIR")
	case a&early != 0:
		return nil
	}
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
