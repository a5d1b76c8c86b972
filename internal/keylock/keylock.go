// Package keylock is a lock per key that honours its context. It imports nothing
// of banger and anyone may import it.
package keylock

import (
	"context"
	"sync"
)

// Locks is a set of locks named by key. The zero value is ready for use.
type Locks struct {
	// mu protects locks and the count in each; it is never held while waiting.
	mu    sync.Mutex
	locks map[string]*lock
}

type lock struct {
	held chan struct{} // holds one token while the lock is taken
	refs int           // holders and waiters
}

// Lock takes the lock of key, waiting until it is free or ctx ends. The returned
// function gives it back and must be called once.
func (l *Locks) Lock(ctx context.Context, key string) (unlock func(), err error) {
	k := l.ref(key)
	select {
	case k.held <- struct{}{}:
		return func() { <-k.held; l.unref(key, k) }, nil
	case <-ctx.Done():
		l.unref(key, k)
		return nil, context.Cause(ctx)
	}
}

// TryLock takes the lock of key if it is free.
func (l *Locks) TryLock(key string) (unlock func(), ok bool) {
	k := l.ref(key)
	select {
	case k.held <- struct{}{}:
		return func() { <-k.held; l.unref(key, k) }, true
	default:
		l.unref(key, k)
		return nil, false
	}
}

func (l *Locks) ref(key string) *lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.locks == nil {
		l.locks = make(map[string]*lock)
	}
	k, ok := l.locks[key]
	if !ok {
		k = &lock{held: make(chan struct{}, 1)}
		l.locks[key] = k
	}
	k.refs++
	return k
}

func (l *Locks) unref(key string, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.refs--; k.refs == 0 {
		delete(l.locks, key)
	}
}
