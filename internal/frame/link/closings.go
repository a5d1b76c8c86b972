package link

import (
	"encoding/binary"
	"sync"
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

	mu    sync.Mutex // protects the following
	chans map[uint32]chan struct{}
	over  bool
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

// of returns the channel that is closed when the peer has closed the stream.
func (c *closings) of(id uint32) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.get(id)
}

func (c *closings) get(id uint32) chan struct{} {
	ch, ok := c.chans[id]
	if !ok {
		if c.chans == nil {
			c.chans = map[uint32]chan struct{}{}
		}
		ch = make(chan struct{})
		c.chans[id] = ch
		if c.over {
			close(ch)
		}
	}
	return ch
}

func (c *closings) ended(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	closeOnce(c.get(id))
}

// forget is called when both sides have closed.
func (c *closings) forget(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.chans, id)
}

// all ends every stream, those to come included: there is no peer any more.
func (c *closings) all() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for _, ch := range c.chans {
		closeOnce(ch)
	}
}

// closeOnce is called with mu held.
func closeOnce(ch chan struct{}) {
	select {
	case <-ch:
	default:
		close(ch)
	}
}
