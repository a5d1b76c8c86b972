package vm

import (
	"context"
	"log/slog"
	"time"

	"banger/api"
	"banger/internal/operation"
	"banger/internal/store"
	"banger/internal/template"
)

// Pool keeps clones that nobody has a name for, so that a start need not make one.
type Pool struct {
	store        *store.Store
	records      *Records
	locks        *vmLocks
	operations   *operation.Registry
	queue        *queue
	specs        *specs
	templateWant func(ctx context.Context, vm api.VM) (template.Want, error)
	vmms         *vmms
	bringUp      *bringUp
	starts       *starts
	// removeVM removes any VM.
	removeVM  func(ctx context.Context, id string) error
	templates *template.Service
	newID     func() string
	life      *background
	log       *slog.Logger
	now       func() time.Time
	memory    func() template.Memory
	// size is how many clones there should be, reserve how many bytes of the host's memory they leave alone (0: an eighth).
	size    int
	reserve int64
}

// keep fills the pool and gives it up for as long as the daemon lives.
func (p *Pool) keep(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	resting := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.queue.wake:
		case <-timer.C:
			if view, _ := p.view(true, 0); resting && view.Next() == template.PoolRests { // memory is all that has changed by itself
				timer.Reset(poolEvery)
				continue
			}
		}
		again, err := p.tend(ctx)
		if err != nil && ctx.Err() == nil {
			p.log.Warn("cannot keep the pool", "error", err)
			again = poolRetry
		}
		resting = err == nil && again == poolEvery
		timer.Stop()
		if again > 0 {
			timer.Reset(again)
		}
	}
}

// tend does what is to be done, and says when to look again if nothing happens before; 0 is never.
func (p *Pool) tend(ctx context.Context) (again time.Duration, err error) {
	kind, found, err := p.kind(ctx)
	if err != nil {
		return poolRetry, err
	}
	p.queue.mu.Lock()
	if found && serves(p.queue.last, kind.vm) {
		p.queue.armed = true
	}
	p.queue.mu.Unlock()
	// What no start would take any more goes.
	if err := p.drop(ctx, func(vm api.VM) bool { return !found || !kind.fits(vm) || !p.vmms.isUp(vm.ID) }); err != nil {
		return poolRetry, err
	}
	for ctx.Err() == nil {
		view, wait := p.view(found, kind.price())
		switch view.Next() {
		case template.PoolRests:
			if view.Have > 0 {
				return poolEvery, nil
			}
			return 0, nil
		case template.PoolWaits:
			return wait, nil
		case template.PoolGivesUp:
			if given, err := p.giveUp(ctx); err != nil || !given {
				return poolEvery, err
			}
		case template.PoolMakes:
			if err := p.fillOne(ctx, kind); err != nil {
				return poolRetry, err
			}
		}
	}
	return 0, nil
}

// view is what the policy looks at, and for how long to wait where it says so.
func (p *Pool) view(found bool, price int64) (template.Pool, time.Duration) {
	memory := p.memory()
	reserve := p.reserve
	if reserve == 0 {
		reserve = memory.Total / 8
	}
	q := p.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	view := template.Pool{
		Wanted: p.size, Have: len(q.ready), Armed: q.armed && !q.ended, Template: found, Memory: memory, Reserve: reserve, Price: price,
	}
	if q.making != nil {
		view.Have++
	}
	now, wait := p.now(), poolEvery
	if calm := q.calm.Sub(now); calm > 0 {
		view.Busy, wait = true, calm
	}
	if failed := q.failed.Add(poolRetry).Sub(now); failed > 0 && !q.failed.IsZero() {
		view.Busy, wait = true, failed
	}
	view.Busy = view.Busy || q.starts > 0
	return view, wait
}

// State is how many clones may be taken, and how many there should be.
func (p *Pool) State() (ready, wanted int) {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	return len(p.queue.ready), p.size
}

// wanted has the pool look again, for it may be VMs like this one that will be started next.
func (p *Pool) wanted(vm api.VM) {
	p.queue.started(vm)
	p.queue.look()
}
