package vm

import (
	"slices"
	"sync"
	"time"

	"banger/api"
	"banger/internal/operation"
)

// queue is the clones that wait to be taken. What is recorded of them is in the store (state pooled; Ready when one may be
// taken); this is what the present daemon does with them.
type queue struct {
	now func() time.Time
	// wake has the keeper look again.
	wake chan struct{}

	// mu protects the following. Nothing waits while holding it.
	mu sync.Mutex
	// ready are those that may be taken, oldest first. Who takes one out of here, to give it away or to remove it, is
	// the only one who does.
	ready []api.VM
	// making is the one being made; nil if none.
	making *making
	// armed is true once somebody has started a VM of the pool's kind, last what was started last.
	armed bool
	last  api.VM
	// ended is true from the moment that the daemon stops.
	ended bool
	// starts are those of users under way, calm is when what followed the last one will be over.
	starts int
	calm   time.Time
	// failed is when a clone could last not be made.
	failed time.Time
}

// making is a clone that is being made.
type making struct {
	vm   api.VM
	op   *operation.Operation
	done chan struct{} // closed when it is ready, or never will be
	// wanted is set by a start that has decided to wait for it.
	wanted bool
}

const (
	// calmAfter is how long after a start the pool is left alone: the caller's command runs now.
	calmAfter = 250 * time.Millisecond
	// poolEvery is how often memory is looked at while there is something in the pool, or something missing.
	poolEvery = 5 * time.Second
	// poolRetry is how long it is left alone when a clone could not be made.
	poolRetry = 30 * time.Second
)

// look makes the keeper look again.
func (q *queue) look() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// started notes what users start.
func (q *queue) started(vm api.VM) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.last = vm
}

// busy counts a user's start, and returns what ends it.
func (q *queue) busy() func() {
	q.mu.Lock()
	q.starts++
	q.mu.Unlock()
	return func() {
		q.mu.Lock()
		q.starts--
		q.calm = q.now().Add(calmAfter)
		q.mu.Unlock()
		q.look()
	}
}

// add makes a clone one that may be taken.
func (q *queue) add(vm api.VM) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ready = append(q.ready, vm)
}

// claim takes the oldest clone that passes out of the pool: it is the caller's to give away or to remove.
func (q *queue) claim(pass func(api.VM) bool) (api.VM, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.IndexFunc(q.ready, pass); i >= 0 && !q.ended {
		vm := q.ready[i]
		q.ready = slices.Delete(q.ready, i, i+1)
		return vm, true
	}
	return api.VM{}, false
}

// youngest is claim for what is given up first.
func (q *queue) youngest() (api.VM, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	last := len(q.ready) - 1
	if last < 0 {
		return api.VM{}, false
	}
	vm := q.ready[last]
	q.ready = q.ready[:last]
	return vm, true
}

// makeWay has a start begin that the pool cannot serve: what is being made for the pool would only slow it down.
func (q *queue) makeWay() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if m := q.making; m != nil && !m.wanted {
		m.op.Cancel()
	}
}

// cancelMaking ends the making of a clone that no start waits for; false when there was none.
func (q *queue) cancelMaking() bool {
	q.mu.Lock()
	m := q.making
	wanted := m != nil && m.wanted
	q.mu.Unlock()
	if m == nil || wanted {
		return false
	}
	m.op.Cancel()
	<-m.done
	return true
}
