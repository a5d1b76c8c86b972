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

// keyboard reads banger's standard input once and for all, for one connection after another.
type keyboard struct {
	// mu protects the following.
	mu    sync.Mutex
	chunk []byte // read, and not taken yet
	err   error  // what follows it
	more  *sync.Cond
}

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

// put hands on what was read, and waits until it is taken.
func (k *keyboard) put(p []byte, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.chunk, k.err = p, err
	k.more.Broadcast()
	for len(k.chunk) > 0 {
		k.more.Wait()
	}
}

// reader is the keyboard for one connection, until leave is called.
func (k *keyboard) reader() (r io.Reader, leave func()) {
	c := &keyReader{k: k}
	return c, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		c.over = true
		k.more.Broadcast()
	}
}

type keyReader struct {
	k    *keyboard
	over bool // under the keyboard's mu
}

func (c *keyReader) Read(p []byte) (int, error) {
	k := c.k
	k.mu.Lock()
	defer k.mu.Unlock()
	for !c.over && len(k.chunk) == 0 && k.err == nil {
		k.more.Wait()
	}
	switch {
	case c.over:
		return 0, io.EOF
	case len(k.chunk) > 0:
		n := copy(p, k.chunk)
		k.chunk = k.chunk[n:]
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
