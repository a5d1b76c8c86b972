// Package wire makes one stream of bytes, which nobody hangs up, out of connections that break: a snapshot of a
// Firecracker guest resets its vsock, and every connection of the guest that was copied ends, though it goes on.
// It owns the framing and the handshake; package link runs on top of it, as on a serial port. It imports none of banger's
// packages; the hypervisor (Dial) and the agent (Listen) use it.
//
// Each side keeps what it has sent until the other says that it has read it, at most window bytes; a writer waits while
// that is full. When a connection breaks, the host makes another, both say how much they have read, and both go on from there.
//
//	host → guest   hello: magic, new (as long as there has been no answer) or again, the wire's id (random, 16 bytes), count of bytes read (8)
//	guest → host   answer: magic, yes or no, count of bytes read (8)
//	both           frames: length (4), count of bytes read (8), that many bytes. The length bye ends the wire.
//
// All numbers are big-endian. The guest has one wire. A new one takes the place of the one before, whose host is of the past: a daemon that was
// killed or, in a clone, the daemon of another guest. That one does not know the new id and can never come again, and a host that
// comes again to a guest that does not know its id (no) has lost its wire. What was on its way of the old one is gone, as on a serial port whose
// host was exchanged: package link finds its place again.
//
// A wire to which no host has come again for a while (see Listen), by the guest's clock, is over, and so it is when the host says bye.
// A guest that stands still has no such clock.
package wire
