package dns

import (
	"net"
	"net/netip"
	"sync"
)

// No guest may take so much that others get no answer.
const (
	questionsPerGuest   = 32  // forwarded and not yet answered
	questionsAltogether = 256 // of all guests
	connectionsPerGuest = 16
)

// clients counts the questions under way.
type clients struct {
	mu   sync.Mutex // protects the following
	all  int
	busy map[netip.Addr]int
}

func (c *clients) enter(a netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= questionsAltogether || c.busy[a] >= questionsPerGuest {
		return false
	}
	c.all++
	c.busy[a]++
	return true
}

func (c *clients) leave(a netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.busy[a]--; c.busy[a] == 0 {
		delete(c.busy, a)
	}
}

// fewPerGuest closes connections beyond a guest's share at once, so that none can
// use up the daemon's descriptors.
type fewPerGuest struct {
	net.Listener

	mu   sync.Mutex // protects open
	open map[netip.Addr]int
}

func (l *fewPerGuest) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, _ := netip.ParseAddrPort(c.RemoteAddr().String())
		if l.add(from.Addr(), 1) <= connectionsPerGuest {
			return &counted{Conn: c, gone: sync.OnceFunc(func() { l.add(from.Addr(), -1) })}, nil
		}
		l.add(from.Addr(), -1)
		_ = c.Close()
	}
}

func (l *fewPerGuest) add(a netip.Addr, n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[netip.Addr]int{}
	}
	l.open[a] += n
	left := l.open[a]
	if left == 0 {
		delete(l.open, a)
	}
	return left
}

type counted struct {
	net.Conn
	gone func()
}

func (c *counted) Close() error {
	c.gone()
	return c.Conn.Close()
}
