package memory

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// keepUnused is how long a sealed copy stays when no VMM that we know of maps it: a next clone is likely soon, and
// making the copy again costs some 30 ms.
const keepUnused = 2 * time.Minute

// Vault has checked memory images, each once, and keeps sealed copies of them in memory: QEMU before 8.2 opens
// its memory file for writing even where it maps it privately, so a VMM that was broken out of could change the
// image under all other clones. One copy serves all clones of this daemon's life. Safe for concurrent use.
type Vault struct {
	mu   sync.Mutex // protects the following
	held map[string]*held
}

// held is an image that was checked; ready is closed when that has ended.
type held struct {
	image Image
	ready chan struct{}
	err   error
	copy  *os.File // nil where no copy is wanted
	users int
	timer *time.Timer
}

// Lease is a VMM's use of an image.
type Lease struct {
	Image Image
	// Copy is the sealed copy; nil where none was asked for. It is the vault's to close.
	Copy *os.File
	end  func()
}

// Release ends it; only the first call counts.
func (l *Lease) Release() {
	if l != nil && l.end != nil {
		l.end()
	}
}

// Lend checks the image at path, unless that was done already, and makes the sealed copy if wanted.
func (v *Vault) Lend(ctx context.Context, path string, sealed bool) (*Lease, error) {
	im, err := ReadImage(path)
	if err != nil {
		return nil, err
	}
	key := fmt.Sprint(path, im.file, sealed)
	v.mu.Lock()
	h, found := v.held[key]
	if !found {
		h = &held{image: im, ready: make(chan struct{})}
		if v.held == nil {
			v.held = map[string]*held{}
		}
		v.held[key] = h
		go h.check(path, sealed)
	}
	h.users++
	if h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
	v.mu.Unlock()
	var once sync.Once
	l := &Lease{Image: im, end: func() { once.Do(func() { v.release(key, h) }) }}
	select {
	case <-h.ready:
	case <-ctx.Done():
		l.Release()
		return nil, context.Cause(ctx)
	}
	if h.err != nil {
		l.Release()
		return nil, h.err
	}
	l.Copy = h.copy
	return l, nil
}

// release keeps a good image for a while and forgets a bad one at once.
func (v *Vault) release(key string, h *held) {
	v.mu.Lock()
	defer v.mu.Unlock()
	h.users--
	if h.users > 0 || v.held[key] != h {
		return
	}
	select {
	case <-h.ready:
		if h.err != nil {
			delete(v.held, key)
			return
		}
	default: // given up before it was checked: the next caller finds it here
	}
	h.timer = time.AfterFunc(keepUnused, func() { v.evict(key, h) })
}

func (v *Vault) evict(key string, h *held) {
	<-h.ready
	v.mu.Lock()
	defer v.mu.Unlock()
	if h.users > 0 || v.held[key] != h {
		return
	}
	delete(v.held, key)
	if h.copy != nil {
		_ = h.copy.Close()
	}
}

// check reads the whole image.
func (h *held) check(path string, sealed bool) {
	defer close(h.ready)
	h.copy, h.err = checked(path, h.image, sealed)
}

func checked(path string, im Image, sealed bool) (_ *os.File, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	now, err := readImage(f)
	if err != nil {
		return nil, err
	}
	if now != im {
		return nil, fmt.Errorf("%w: %s was replaced", ErrDamaged, path)
	}
	if !sealed {
		return nil, copyImage(f, im, func([]byte, int64) error { return nil })
	}
	to, err := newMemoryFile("banger-memory")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = to.Close()
		}
	}()
	if err := to.Truncate(im.Size); err != nil {
		return nil, err
	}
	if err := copyImage(f, im, func(b []byte, at int64) error { _, err := to.WriteAt(b, at); return err }); err != nil {
		return nil, err
	}
	return to, seal(to)
}

// newMemoryFile is a file without a name, in memory, that can be sealed.
func newMemoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("cannot make a file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func seal(f *os.File) error {
	_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	if err != nil {
		return fmt.Errorf("cannot seal a file in memory: %w", err)
	}
	return nil
}
