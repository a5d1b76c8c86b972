package vm

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/guest"
	"banger/internal/guest/ssh"
	"banger/internal/network"
	"banger/internal/operation"
	"banger/internal/store"
)

// bringUp makes each guest the one machine that it is, and sees it to the point where it can be used.
type bringUp struct {
	store      *store.Store
	records    *Records
	locks      *vmLocks
	operations *operation.Registry
	network    *network.Network
	knownHosts ssh.KnownHosts
	mains      *mains
	alive      func(id string) (*liveVM, bool)
	life       *background
	paths      config.Paths
	log        *slog.Logger
	now        func() time.Time
	random     func([]byte)
	// readyTimeout bounds the wait for a guest that comes up again.
	readyTimeout time.Duration
	fileSync     []config.FileSync
	home         string
	lag          guest.Lag
}

// whileItRuns runs fn with a context that ends with the VMM and with the daemon, and says which it was.
func (u *bringUp) whileItRuns(ctx context.Context, l *liveVM, fn func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(u.life.ctx, func() { cancel(errDaemonEnds) })()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-l.gone:
			cancel(api.Errorf(api.CodeInternal, "the VMM ended while the guest came up: %s", l.exit.Detail))
		case <-stop:
		}
	}()
	err := fn(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		return cause
	}
	return err
}

// waitAnswer returns when the agent answers for the first time.
func (u *bringUp) waitAnswer(ctx context.Context, l *liveVM) error {
	return u.whileItRuns(ctx, l, func(ctx context.Context) error {
		_, err := l.agent.Health(ctx)
		return err
	})
}

// personalise makes a guest that has booted the one machine that it is, and lets it onto the network once
// it has confirmed its address. Repeating it is harmless.
func (u *bringUp) personalise(ctx context.Context, l *liveVM) error {
	vm, err := u.store.VM(ctx, l.id)
	if err != nil {
		return err
	}
	return u.whileItRuns(ctx, l, func(ctx context.Context) error {
		got, err := u.identify(ctx, vm, l)
		if err != nil {
			return err
		}
		if err := u.putFiles(ctx, l, got.health, got.files); err != nil {
			return err
		}
		l.introduction, l.answered = nil, l.introduction != nil && got.health.Ready
		operation.Stage(ctx, "identity")
		set := make(chan error, 1)
		go func() { set <- got.clock(ctx) }()
		err = u.plugIn(ctx, vm, l)
		operation.Stage(ctx, "join network")
		return errors.Join(err, <-set)
	})
}

// plugIn connects a guest's network: a thawed one's cable is out until it is who it is.
func (u *bringUp) plugIn(ctx context.Context, vm api.VM, l *liveVM) error {
	if err := u.joinNetwork(ctx, vm); err != nil || vm.Spec.Net == api.NetNone {
		return err
	}
	return l.instance.SetLink(ctx, true)
}

// waitReady returns when the agent says that the guest is up, and says so in the record.
func (u *bringUp) waitReady(ctx context.Context, l *liveVM) error {
	if err := u.whileItRuns(ctx, l, func(ctx context.Context) error {
		if l.answered { // a moment ago
			l.answered = false
			return nil
		}
		_, err := l.agent.WaitReady(ctx)
		return err
	}); err != nil {
		return err
	}
	vm, err := u.markReady(ctx, l)
	if err != nil {
		return err
	}
	u.mains.follow(vm, l)
	u.keepClock(l)
	l.policyChanged()
	return nil
}

var errDaemonEnds = api.Errorf(api.CodeCancelled, "the daemon is being stopped")

// again waits for a guest that reboots or was adopted half-way. It is an operation, so that who stops or
// deletes the VM meanwhile cancels it instead of waiting for it.
func (u *bringUp) again(l *liveVM) {
	u.operations.Start("vm.ready", l.id, func(ctx context.Context, op *operation.Operation) error {
		op.SetResult(l.id)
		return u.locks.with(ctx, l.id, func() error {
			if _, alive := u.alive(l.id); !alive {
				return nil
			}
			wctx, cancel := context.WithTimeoutCause(ctx, u.readyTimeout, errNeverReady)
			defer cancel()
			err := u.waitAnswer(wctx, l)
			if err == nil {
				err = u.personalise(wctx, l)
			}
			if err == nil {
				err = u.waitReady(wctx, l)
			}
			if err == nil || context.Cause(ctx) != nil || api.CodeOf(err) == api.CodeCancelled || l.isGone() {
				return err
			}
			return errors.Join(err, u.notUpAgain(context.WithoutCancel(ctx), l, err))
		})
	})
}

// notUpAgain keeps a VM whose guest did not come up for a look.
func (u *bringUp) notUpAgain(ctx context.Context, l *liveVM, cause error) error {
	failure := &api.Failure{Code: api.CodeNotReady, Message: "the guest did not come up again: " + cause.Error(), At: u.now().UTC(), ConsoleTail: consoleTail(u.paths.VM(l.id))}
	_, err := u.records.update(ctx, l.id, func(vm *api.VM) ([]api.Event, error) {
		if vm.State == api.StateStarting {
			vm.State = api.StateRunning
		}
		vm.LastError = failure
		return nil, nil
	})
	return err
}

func (u *bringUp) markReady(ctx context.Context, l *liveVM) (api.VM, error) {
	now := u.now().UTC()
	return u.records.update(ctx, l.id, func(vm *api.VM) ([]api.Event, error) {
		if vm.State == api.StateRunning && vm.Ready {
			return nil, nil
		}
		vm.State, vm.Ready, vm.ReadyAt, vm.LastError = api.StateRunning, true, &now, nil
		vm.Runtime.Forking = false
		return []api.Event{{Kind: "vm.ready"}}, nil
	})
}

// clockEvery is how often a guest's clock is compared with the host's.
const clockEvery = time.Minute

// keepClock keeps a guest's clock right for as long as it runs: a guest does not notice
// that its host slept. Only one keeper runs per VMM.
func (u *bringUp) keepClock(l *liveVM) {
	l.clock.Do(func() {
		u.life.do(func(ctx context.Context) {
			tick := time.NewTicker(clockEvery)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-l.gone:
					return
				case <-tick.C:
				}
				cctx, cancel := context.WithTimeout(ctx, 10*time.Second)
				if err := l.agent.SetClock(cctx, u.now()); err != nil {
					u.log.Debug("cannot set a guest's clock", "vm", l.id, "error", err)
				}
				cancel()
			}
		})
	})
}

// joinNetwork lets a guest that has confirmed its MAC and address onto the bridge.
func (u *bringUp) joinNetwork(ctx context.Context, vm api.VM) error {
	return u.network.Join(ctx, guestOf(vm))
}
