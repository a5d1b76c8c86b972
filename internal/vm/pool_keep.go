package vm

import (
	"context"
	"time"

	"banger/api"
	"banger/internal/template"
)

// keepPool fills the pool and gives it up for as long as the daemon lives.
func (s *Service) keepPool(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	resting := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.pool.wake:
		case <-timer.C:
			if view, _ := s.poolView(true, 0); resting && view.Next() == template.PoolRests { // memory is all that has changed by itself
				timer.Reset(poolEvery)
				continue
			}
		}
		again, err := s.tendPool(ctx)
		if err != nil && ctx.Err() == nil {
			s.Log.Warn("cannot keep the pool", "error", err)
			again = poolRetry
		}
		resting = err == nil && again == poolEvery
		timer.Stop()
		if again > 0 {
			timer.Reset(again)
		}
	}
}

// tendPool does what is to be done, and says when to look again if nothing happens before; 0 is never.
func (s *Service) tendPool(ctx context.Context) (again time.Duration, err error) {
	kind, found, err := s.poolKind(ctx)
	if err != nil {
		return poolRetry, err
	}
	s.pool.mu.Lock()
	if found && serves(s.pool.last, kind.vm) {
		s.pool.armed = true
	}
	s.pool.mu.Unlock()
	// What no start would take any more goes.
	if err := s.dropPooled(ctx, func(vm api.VM) bool { return !found || !kind.fits(vm) || !s.isUp(vm.ID) }); err != nil {
		return poolRetry, err
	}
	for ctx.Err() == nil {
		view, wait := s.poolView(found, kind.price())
		switch view.Next() {
		case template.PoolRests:
			if view.Have > 0 {
				return poolEvery, nil
			}
			return 0, nil
		case template.PoolWaits:
			return wait, nil
		case template.PoolGivesUp:
			if given, err := s.giveUp(ctx); err != nil || !given {
				return poolEvery, err
			}
		case template.PoolMakes:
			if err := s.fillOne(ctx, kind); err != nil {
				return poolRetry, err
			}
		}
	}
	return 0, nil
}

// poolView is what the policy looks at, and for how long to wait where it says so.
func (s *Service) poolView(found bool, price int64) (template.Pool, time.Duration) {
	memory := s.Memory()
	reserve := s.PoolReserve
	if reserve == 0 {
		reserve = memory.Total / 8
	}
	p := &s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	view := template.Pool{
		Wanted: s.PoolSize, Have: len(p.ready), Armed: p.armed && !p.ended, Template: found, Memory: memory, Reserve: reserve, Price: price,
	}
	if p.making != nil {
		view.Have++
	}
	now, wait := s.Now(), poolEvery
	if calm := p.calm.Sub(now); calm > 0 {
		view.Busy, wait = true, calm
	}
	if failed := p.failed.Add(poolRetry).Sub(now); failed > 0 && !p.failed.IsZero() {
		view.Busy, wait = true, failed
	}
	view.Busy = view.Busy || p.starts > 0
	return view, wait
}
