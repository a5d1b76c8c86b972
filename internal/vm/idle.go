package vm

import (
	"context"
	"time"

	"banger/api"
	"banger/internal/host"
	"banger/internal/operation"
	"banger/internal/store"
)

const (
	// activityTime bounds what a guest may take to tell of its activity; one that does not is not idle.
	activityTime = 5 * time.Second
	// afterFailure is how long a VM is left alone that could not be suspended.
	afterFailure = time.Minute
)

// idling suspends VMs that nobody uses, each by its policy.
type idling struct {
	host       host.Host
	store      *store.Store
	locks      *vmLocks
	operations *operation.Registry
	// suspendNow freezes a VM, called with its lock held.
	suspendNow func(ctx context.Context, op *operation.Operation, id, why string) error
	uses       *uses
	now        func() time.Time
}

// watch suspends a VM that idles for as long as its policy says. It costs nothing for one that has none.
func (i *idling) watch(ctx context.Context, l *liveVM) {
	look := looker{idling: i, live: l}
	var seen []sample
	var notBefore time.Time
	for {
		var tick <-chan time.Time
		if limit := i.limit(ctx, l.id); limit > 0 {
			seen = within(append(seen, look.sample(ctx)), limit)
			if idle(seen, limit) && !i.now().Before(notBefore) && !i.suspend(ctx, l) {
				notBefore = i.now().Add(max(limit, afterFailure))
			}
			tick = time.After(sampleEvery(limit))
		} else {
			seen = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-l.gone:
			return
		case <-l.policy:
		case <-tick:
		}
	}
}

// policyChanged makes idling look at the VM's record.
func (l *liveVM) policyChanged() {
	select {
	case l.policy <- struct{}{}:
	default: // it is about to
	}
}

func (i *idling) limit(ctx context.Context, id string) time.Duration {
	vm, err := i.store.VM(ctx, id)
	if err != nil {
		return 0
	}
	return time.Duration(vm.Spec.IdleSuspendMS) * time.Millisecond
}

// looker takes the samples of one VM.
type looker struct {
	*idling
	live *liveVM
	// asked is the CPU time that asking the agent has cost: what a look costs is no activity.
	asked time.Duration
}

// sample looks at a VM. The agent is asked only where nothing else says that the VM is busy.
func (w *looker) sample(ctx context.Context) sample {
	open, last := w.uses.look(w.live.id)
	out := sample{at: w.now(), lastUse: last, busy: true}
	before, err := w.host.Usage(w.live.instance.Process())
	if err != nil {
		return out
	}
	out.cpu = before.CPU - w.asked
	vm, err := w.store.VM(ctx, w.live.id)
	if err != nil || vm.State != api.StateRunning || !vm.Ready || open > 0 || vm.Main != nil && vm.Main.EndedAt == nil {
		return out
	}
	out.busy = w.live.active(ctx)
	if after, err := w.host.Usage(w.live.instance.Process()); err == nil {
		w.asked += after.CPU - before.CPU
	}
	return out
}

// active reports whether a session runs in the guest or a connection to it is open, and true where it does not say.
func (l *liveVM) active(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, activityTime)
	defer cancel()
	a, err := l.agent.Activity(ctx)
	return err != nil || a.Sessions > 0 || a.Connections > 0
}

// suspend suspends an idle VM, unless somebody begins to use it meanwhile or is changing it. It reports false
// where it failed.
func (i *idling) suspend(ctx context.Context, l *liveVM) bool {
	unlock, free := i.locks.TryLock(l.id)
	if !free {
		return true
	}
	op := i.operations.Start("vm.suspend", l.id, func(ctx context.Context, op *operation.Operation) error {
		defer unlock()
		op.SetResult(l.id)
		return i.suspendNow(ctx, op, l.id, whyIdle)
	})
	_, err := op.Wait(ctx)
	return err == nil || api.CodeOf(err) == api.CodeCancelled
}
