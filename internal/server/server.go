// Package server is the HTTP surface of the daemon: one route table, and for each
// route its access, what it reads and what it answers. It owns no behaviour of VMs,
// images or operations. It imports vm, session, image, doctor, operation and api, and only daemon
// may import it.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"banger/api"
	"banger/internal/backend"
	"banger/internal/config"
	"banger/internal/image"
	"banger/internal/operation"
	"banger/internal/session"
	"banger/internal/vm"
)

// Services are what the routes act on. All are set.
type Services struct {
	VMs        *vm.Service
	Sessions   *session.Service
	Images     *image.Service
	Operations *operation.Registry
	Backends   backend.Set
	Config     *config.Config
	// Doctor looks at the host.
	Doctor func(context.Context) []api.Check
	// Stop begins the end of the daemon and returns at once.
	Stop func()
	Log  *slog.Logger
	// UID is the daemon's own; it and root are served.
	UID    int
	Rights api.Rights
	// Unit is systemd's that runs the daemon; empty where there is none.
	Unit      string
	StartedAt time.Time
}

// Server answers the daemon's socket. Make it with New.
type Server struct {
	Services
	http   *http.Server
	mux    *http.ServeMux
	ready  chan struct{}
	cancel context.CancelCauseFunc
	// mu protects trouble: what went wrong as the daemon began, for info to tell.
	mu       sync.Mutex
	trouble  []string
	draining atomic.Bool
	fresh    fresh
	// streams counts upgraded connections, which http.Server forgets.
	streams sync.WaitGroup
}

// errStopping ends the requests that are under way when the daemon stops.
var errStopping = api.Errorf(api.CodeUnreachable, "the daemon is stopping")

// freshTime is how long the end waits for a caller that has connected to say what it wants.
const freshTime = 300 * time.Millisecond

// New makes a server that holds back every route that is not early until Ready.
func New(services Services) *Server {
	s := &Server{Services: services, mux: http.NewServeMux(), ready: make(chan struct{})}
	s.open(s.routes())
	return s
}

func (s *Server) open(routes []route) {
	base, cancel := context.WithCancelCause(context.Background())
	s.cancel = cancel
	for _, r := range routes {
		s.mux.Handle(r.pattern, s.handler(r))
	}
	s.mux.Handle("/", s.handler(route{pattern: "/", access: owner | early, action: action{serve: func(c *call) error {
		return api.Errorf(api.CodeNotFound, "there is no %s %s", c.r.Method, c.r.URL.Path).WithHint("GET /v1/openapi.json lists the routes")
	}}}))
	s.http = &http.Server{
		Handler:           s.mux,
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext:       withPeer,
		ConnState:         s.fresh.track,
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
	}
}

// Serve answers l until Shutdown. It may run for several listeners.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Ready lets all requests through: the daemon knows its VMs. Called once.
func (s *Server) Ready() { close(s.ready) }

// Trouble keeps a sentence for info to tell: the daemon serves, but not all is well.
func (s *Server) Trouble(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = append(s.trouble, fmt.Sprintf(format, args...))
}

func (s *Server) problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.trouble)
}

// Drain refuses every new request, in a way that tells the client to go to the next daemon.
// Listeners stay open until Shutdown: whoever is in their queue gets that answer too.
func (s *Server) Drain() { s.draining.Store(true) }

// Shutdown takes no new requests, ends those under way and waits for them until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	s.fresh.wait(freshTime)
	s.cancel(errStopping)
	err := s.http.Shutdown(ctx)
	done := make(chan struct{})
	go func() { s.streams.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		err = errors.Join(err, context.Cause(ctx))
	}
	return errors.Join(err, s.http.Close())
}
