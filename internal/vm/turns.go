package vm

import (
	"context"
	"sync"
	"time"

	"banger/api"
)

// turns lets as many emulated guests come up at a time as there are CPUs. More would only take each other's: a guest of two CPUs waits for one
// of them that does not run, and all of them answer late instead of half of them early.
type turns chan struct{}

// turnTime is how long a guest can keep others waiting: one that hangs is no reason for more. A thaw takes a fifth of a second.
const turnTime = 2 * time.Second

func newTurns(cpus int) turns { return make(turns, cpus) }

// take waits for a turn. It ends with done, which may be called twice, or after turnTime.
func (t turns) take(ctx context.Context, vm api.VM) (done func(), err error) {
	if vm.Runtime.Accel != "tcg" { // with KVM a guest that comes up waits for the host's disk more than for its CPU
		return func() {}, nil
	}
	select {
	case t <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	end := sync.OnceFunc(func() { <-t })
	late := time.AfterFunc(turnTime, end)
	return func() { late.Stop(); end() }, nil
}
