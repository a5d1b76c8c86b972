package vm

import (
	"slices"
	"sync"
	"time"

	"banger/api"
	"banger/internal/operation"
)

// pool is the clones that wait to be taken. What is recorded of them is in the store (state pooled; Ready when one may be
// taken); this is what the present daemon does with them.
type pool struct {
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

// PoolState is how many clones may be taken, and how many there should be.
func (s *Service) PoolState() (ready, wanted int) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return len(s.pool.ready), s.PoolSize
}

// look makes the keeper look again.
func (p *pool) look() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// started notes what users start.
func (p *pool) started(vm api.VM) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = vm
}

// busy counts a user's start, and returns what ends it.
func (s *Service) busy() func() {
	p := &s.pool
	p.mu.Lock()
	p.starts++
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		p.starts--
		p.calm = s.Now().Add(calmAfter)
		p.mu.Unlock()
		p.look()
	}
}

// add makes a clone one that may be taken.
func (p *pool) add(vm api.VM) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready = append(p.ready, vm)
}

// claim takes the oldest clone that passes out of the pool: it is the caller's to give away or to remove.
func (p *pool) claim(pass func(api.VM) bool) (api.VM, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.IndexFunc(p.ready, pass); i >= 0 && !p.ended {
		vm := p.ready[i]
		p.ready = slices.Delete(p.ready, i, i+1)
		return vm, true
	}
	return api.VM{}, false
}

// youngest is claim for what is given up first.
func (p *pool) youngest() (api.VM, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.ready) - 1
	if last < 0 {
		return api.VM{}, false
	}
	vm := p.ready[last]
	p.ready = p.ready[:last]
	return vm, true
}
