package link

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// closings tells streams that their peer has closed as soon as that arrives, although
// data before it may not have been read yet: yamux itself tells only those who read. It
// watches the bytes that come in for yamux, whose frames are a header of 12 bytes
// (version, type, flags 16, stream 32, length 32; yamux/spec.md), after it the data if the
// type is 0.
type closings struct {
	head [12]byte
	have int    // bytes of head
	skip uint32 // bytes of data still to come
	// thawed: the epoch ended, or is about to end, because the guest was thawed.
	thawed atomic.Bool

	mu    sync.Mutex // protects the following
	peers map[uint32]*peer
	over  bool
}

// peer is what is known of the other end of one stream.
type peer struct {
	// gone is closed when it has closed the stream, or the session has ended.
	gone chan struct{}
	// left: it has closed the stream; set before gone is closed.
	left atomic.Bool
}

const flagsEnd = 0x4 | 0x8 // FIN, RST

// see is given everything that comes in, in order.
func (c *closings) see(p []byte) {
	for len(p) > 0 {
		if c.skip > 0 {
			n := min(uint32(len(p)), c.skip)
			c.skip -= n
			p = p[n:]
			continue
		}
		n := copy(c.head[c.have:], p)
		c.have += n
		p = p[n:]
		if c.have < len(c.head) {
			return
		}
		c.have = 0
		if binary.BigEndian.Uint16(c.head[2:])&flagsEnd != 0 {
			c.ended(binary.BigEndian.Uint32(c.head[4:]))
		}
		if c.head[1] == 0 {
			c.skip = binary.BigEndian.Uint32(c.head[8:])
		}
	}
}

// of returns the other end of a stream.
func (c *closings) of(id uint32) *peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.get(id)
}

func (c *closings) get(id uint32) *peer {
	p, ok := c.peers[id]
	if !ok {
		if c.peers == nil {
			c.peers = map[uint32]*peer{}
		}
		p = &peer{gone: make(chan struct{})}
		c.peers[id] = p
		if c.over {
			close(p.gone)
		}
	}
	return p
}

func (c *closings) ended(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.get(id)
	p.left.Store(true)
	p.end()
}

// forget is called when both sides have closed.
func (c *closings) forget(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.peers, id)
}

// all ends every stream, those to come included: there is no peer any more.
func (c *closings) all() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for _, p := range c.peers {
		p.end()
	}
}

// end is called with closings.mu held.
func (p *peer) end() {
	select {
	case <-p.gone:
	default:
		close(p.gone)
	}
}
