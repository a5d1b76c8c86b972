package vm

import (
	"context"
	"sync"
	"time"

	"banger/internal/operation"
)

// uses counts what people do in each VM's guest at this moment: commands, copies, forwards. What only looks at a VM (its
// record, its logs, its figures) is no use, and banger's own calls to the agent are none. The zero value is ready.
type uses struct {
	// mu protects the following.
	mu   sync.Mutex
	byID map[string]*use
}

type use struct {
	open int
	// last is when a use ended last; zero if none has.
	last time.Time
	// frozen is not nil while the guest is being frozen, and closed when that is over, well or not.
	frozen chan struct{}
	// waking is the newest start on behalf of somebody who wanted to use the VM; nil if there was none.
	waking *operation.Operation
}

// of is called with mu held.
func (u *uses) of(id string) *use {
	if u.byID == nil {
		u.byID = make(map[string]*use)
	}
	e, ok := u.byID[id]
	if !ok {
		e = &use{}
		u.byID[id] = e
	}
	return e
}

// begin counts a use until end is called. While the guest is being frozen it waits for what becomes of that, and
// says so: what the caller knows of the VM is old then.
func (u *uses) begin(ctx context.Context, id string, now func() time.Time) (end func(), waited bool, err error) {
	u.mu.Lock()
	e := u.of(id)
	e.open++
	frozen := e.frozen
	u.mu.Unlock()
	end = sync.OnceFunc(func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		e.open--
		e.last = now()
	})
	if frozen == nil {
		return end, false, nil
	}
	select {
	case <-frozen:
		return end, true, nil
	case <-ctx.Done():
		end()
		return nil, true, context.Cause(ctx)
	}
}

// look tells how many uses there are, and when one ended last.
func (u *uses) look(id string) (open int, last time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if e, ok := u.byID[id]; ok {
		return e.open, e.last
	}
	return 0, time.Time{}
}

// freeze holds back new uses until thawed is called. With onlyUnused it refuses where there is a use.
func (u *uses) freeze(id string, onlyUnused bool) (thawed func(), ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	e := u.of(id)
	if onlyUnused && e.open > 0 {
		return nil, false
	}
	done := make(chan struct{})
	e.frozen = done
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		e.frozen = nil
		close(done)
	}, true
}

// wake is the start that is under way on somebody's behalf, or the one that start begins.
func (u *uses) wake(id string, start func() *operation.Operation) *operation.Operation {
	u.mu.Lock()
	defer u.mu.Unlock()
	e := u.of(id)
	if !e.isWaking() {
		e.waking = start()
	}
	return e.waking
}

func (u *uses) waking(id string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	e, ok := u.byID[id]
	return ok && e.isWaking()
}

func (e *use) isWaking() bool { return e.waking != nil && !e.waking.Ended() }

// forget drops what is known of a VM that is gone.
func (u *uses) forget(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.byID, id)
}
