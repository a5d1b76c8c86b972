package server

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// fresh knows the connections that have not sent a request yet. http.Server.Shutdown closes
// them without an answer (net/http, conn.serve), which the caller cannot tell from a crash.
type fresh struct {
	// mu protects the following.
	mu    sync.Mutex
	conns map[net.Conn]struct{}
	// empty is set while somebody waits, and closed when conns is empty.
	empty chan struct{}
}

func (f *fresh) track(conn net.Conn, state http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if state == http.StateNew {
		if f.conns == nil {
			f.conns = make(map[net.Conn]struct{})
		}
		f.conns[conn] = struct{}{}
		return
	}
	delete(f.conns, conn)
	if len(f.conns) == 0 && f.empty != nil {
		close(f.empty)
		f.empty = nil
	}
}

// wait returns when every connection has sent a request, at the latest after d.
func (f *fresh) wait(d time.Duration) {
	f.mu.Lock()
	if len(f.conns) == 0 {
		f.mu.Unlock()
		return
	}
	if f.empty == nil {
		f.empty = make(chan struct{})
	}
	empty := f.empty
	f.mu.Unlock()
	select {
	case <-empty:
	case <-time.After(d):
	}
}
