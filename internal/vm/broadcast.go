package vm

import "sync"

// broadcast wakes everybody who waits for something to change. The zero value is ready.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// Next is closed at the next Wake. Take it before looking at what may change.
func (b *broadcast) Next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

// Wake ends every wait begun so far.
func (b *broadcast) Wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
