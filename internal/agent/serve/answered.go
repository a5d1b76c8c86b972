package serve

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// connKey is where a request's context has its connection.
type connKey struct{}

// answered keeps what is to be done once an answer has left.
type answered struct {
	// mu protects the following.
	mu   sync.Mutex
	then map[net.Conn]func()
}

// Attach makes a server tell when an answer has left; without it, what waits for that is never done.
func (s *Server) Attach(server *http.Server) {
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) }
	server.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateIdle || state == http.StateClosed {
			s.answered.left(c)
		}
	}
}

// onceAnswered does something as soon as the answer to r has been written to the channel.
func (s *Server) onceAnswered(r *http.Request, do func()) {
	c, ok := r.Context().Value(connKey{}).(net.Conn)
	if !ok {
		return
	}
	s.answered.mu.Lock()
	defer s.answered.mu.Unlock()
	if s.answered.then == nil {
		s.answered.then = make(map[net.Conn]func())
	}
	s.answered.then[c] = do
}

func (a *answered) left(c net.Conn) {
	a.mu.Lock()
	do := a.then[c]
	delete(a.then, c)
	a.mu.Unlock()
	if do != nil {
		do()
	}
}
