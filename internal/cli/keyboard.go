package cli

import (
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

// The keys that detach, one after the other.
const (
	ctrlP = 0x10
	ctrlQ = 0x11
)

// keyboard reads banger's standard input once and for all, for one connection after another. What it has handed out it keeps for
// a while: the connection may break before that has come to the command, and the next one goes on from what has.
type keyboard struct {
	// mu protects the following. Places are counted from the first byte that was read.
	mu   sync.Mutex
	kept []byte // from base on
	base int64
	next int64 // the first byte that has not been handed out
	err  error // what follows the last one
	// at is the connection that it is read for; nil between two.
	at   *keyReader
	more *sync.Cond
}

// keyboardKeeps is more than can be on its way to a command, in bytes: 32 KiB being copied here, 128 KiB in the socket to the
// daemon (client.AttachSession says so), 160 KiB in frames there, the window of a stream to the guest (1 MiB, frame/link), 36 KiB in
// the agent, at most 320 KiB in its socket to the session's holder (net.core.wmem_default, and one piece over it), and
// 448 KiB in frames there (stdinAhead, and those in hand): 2.1 MiB.
const keyboardKeeps = 4 << 20

// listen begins to read. With keys, Ctrl-P Ctrl-Q is taken out of what comes, and calls detach.
func listen(in io.Reader, detach func(), keys bool) *keyboard {
	k := &keyboard{}
	k.more = sync.NewCond(&k.mu)
	go func() { // stays in its last Read when the session ends first
		buf := make([]byte, 32<<10)
		var filter detachFilter
		for {
			n, err := in.Read(buf)
			p, detached := buf[:n], false
			if keys {
				p, detached = filter.pass(p)
			}
			k.put(p, err)
			if detached {
				detach()
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return k
}

// put hands on what was read, and waits until it is taken. While nobody is there to take it, there is room for as much as is
// kept: the keys that detach may come behind it.
func (k *keyboard) put(p []byte, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := int(k.next-k.base) - keyboardKeeps; old > keyboardKeeps {
		k.kept = append(k.kept[:0], k.kept[old:]...)
		k.base += int64(old)
	}
	k.kept = append(k.kept, p...)
	k.err = err
	k.more.Broadcast()
	for len(k.left()) > 0 && (k.at != nil || len(k.left()) >= keyboardKeeps) {
		k.more.Wait()
	}
}

// left is what has not been handed out.
func (k *keyboard) left() []byte { return k.kept[k.next-k.base:] }

// reader is the keyboard for one connection, until leave is called. It is read after resume only.
func (k *keyboard) reader() (r *keyReader, leave func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := &keyReader{k: k}
	k.at = c
	return c, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		c.over = true
		if k.at == c {
			k.at = nil
		}
		k.more.Broadcast()
	}
}

type keyReader struct {
	k    *keyboard
	over bool // under the keyboard's mu
}

// resume goes on from the place that the other end has come to, and returns from where it does: where more has been lost than is
// kept, that is later. Where the place is not known, which is -1, nothing is handed out again.
func (c *keyReader) resume(place int64) int64 {
	k := c.k
	k.mu.Lock()
	defer k.mu.Unlock()
	if place >= 0 {
		k.next = min(max(place, k.base), k.base+int64(len(k.kept)))
	}
	k.more.Broadcast()
	return k.next
}

func (c *keyReader) Read(p []byte) (int, error) {
	k := c.k
	k.mu.Lock()
	defer k.mu.Unlock()
	for !c.over && len(k.left()) == 0 && k.err == nil {
		k.more.Wait()
	}
	switch {
	case c.over:
		return 0, io.EOF
	case len(k.left()) > 0:
		n := copy(p, k.left())
		k.next += int64(n)
		k.more.Broadcast()
		return n, nil
	}
	return 0, k.err
}

// detachFilter finds Ctrl-P Ctrl-Q in what is typed.
type detachFilter struct{ held bool }

// pass returns what of p goes to the session. A Ctrl-P is held back until it is known what follows.
func (f *detachFilter) pass(p []byte) (out []byte, detached bool) {
	out = make([]byte, 0, len(p)+1)
	for _, b := range p {
		switch {
		case f.held && b == ctrlQ:
			return out, true
		case f.held && b == ctrlP:
			out = append(out, ctrlP) // the one before
		case b == ctrlP:
			f.held = true
		case f.held:
			f.held = false
			out = append(out, ctrlP, b)
		default:
			out = append(out, b)
		}
	}
	return out, false
}

// detachable prepares a terminal: as a mere wire (raw), or else as it is but with Ctrl-Q handed on at once.
func detachable(fd int, raw bool) (restore func(), err error) {
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	now := *old
	if raw { // as cfmakeraw(3)
		now.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		now.Oflag &^= unix.OPOST
		now.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		now.Cflag = now.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
		now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 1, 0
	} else {
		now.Iflag &^= unix.IXON
		now.Cc[unix.VEOL] = ctrlQ
	}
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &now); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil
}
