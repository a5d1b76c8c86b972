package vm

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/guest"
	"banger/internal/guest/ssh"
	"banger/internal/operation"
)

// whileItRuns runs fn with a context that ends with the VMM and with the daemon, and says which it was.
func (s *Service) whileItRuns(ctx context.Context, l *liveVM, fn func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.life.ctx, func() { cancel(errDaemonEnds) })()
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
func (s *Service) waitAnswer(ctx context.Context, l *liveVM) error {
	return s.whileItRuns(ctx, l, func(ctx context.Context) error {
		_, err := l.agent.Health(ctx)
		return err
	})
}

// personalise makes a guest that has booted the one machine that it is, and lets it onto the network once
// it has confirmed its address. Repeating it is harmless.
func (s *Service) personalise(ctx context.Context, l *liveVM) error {
	vm, err := s.Store.VM(ctx, l.id)
	if err != nil {
		return err
	}
	return s.whileItRuns(ctx, l, func(ctx context.Context) error {
		agent, known := l.firstAnswer(ctx), false
		if !l.anonymous && !vm.Runtime.Forking {
			health, err := agent.Health(ctx)
			if err != nil {
				return err
			}
			known = health.Personalised // it was adopted, or goes on from its own frozen memory
		}
		p, err := s.personality(vm)
		if err != nil {
			return err
		}
		switch {
		case vm.Runtime.Forking: // what it says of itself is its source's
			p.Thawed = agentapi.ThawedFork
		case known:
			p = s.renewal(vm, p.AuthorizedKeys)
		}
		var files [][]agentapi.File
		if starts(vm, known) {
			files = s.addFiles(ctx, &p)
		}
		health, clock, err := agent.BeginPersonalise(ctx, p)
		if err != nil {
			return err
		}
		if err := s.putFiles(ctx, l, health, files); err != nil {
			return err
		}
		l.anonymous, l.answered = false, l.anonymous && health.Ready
		operation.Stage(ctx, "identity")
		set := make(chan error, 1)
		go func() { set <- clock(ctx) }()
		err = s.plugIn(ctx, vm, l)
		operation.Stage(ctx, "join network")
		return errors.Join(err, <-set)
	})
}

// firstAnswer is the agent, with a stage of the running step that ends when it has answered the host's greeting.
func (l *liveVM) firstAnswer(ctx context.Context) *guest.Client {
	answered := sync.OnceFunc(func() { operation.Stage(ctx, "answer") })
	return guest.New(func(ctx context.Context) (net.Conn, error) {
		conn, err := l.instance.DialGuest(ctx)
		if err == nil {
			answered()
		}
		return conn, err
	})
}

// plugIn connects a guest's network: a thawed one's cable is out until it is who it is.
func (s *Service) plugIn(ctx context.Context, vm api.VM, l *liveVM) error {
	if err := s.joinNetwork(ctx, vm); err != nil || vm.Spec.Net == api.NetNone {
		return err
	}
	return l.instance.SetLink(ctx, true)
}

// renewal is what a guest needs that has stood still, and is who it was. Where that was for a start, the host's logins are mended.
func (s *Service) renewal(vm api.VM, keys []string) agentapi.Personalise {
	p := agentapi.Personalise{Thawed: agentapi.ThawedResume, Entropy: make([]byte, 64), Time: s.Now()}
	s.Random(p.Entropy)
	if vm.State == api.StateStarting {
		p.AuthorizedKeys = keys
	}
	if vm.Spec.Net != api.NetNone {
		p.Network = s.Network.GuestConfig(guestOf(vm))
	}
	return p
}

// waitReady returns when the agent says that the guest is up, and says so in the record.
func (s *Service) waitReady(ctx context.Context, l *liveVM) error {
	if err := s.whileItRuns(ctx, l, func(ctx context.Context) error {
		if l.answered { // a moment ago
			l.answered = false
			return nil
		}
		_, err := l.agent.WaitReady(ctx)
		return err
	}); err != nil {
		return err
	}
	vm, err := s.markReady(ctx, l)
	if err != nil {
		return err
	}
	s.followMain(vm, l)
	s.keepClock(l)
	l.policyChanged()
	return nil
}

var errDaemonEnds = api.Errorf(api.CodeCancelled, "the daemon is being stopped")

// bringUpAgain waits for a guest that reboots or was adopted half-way. It is an operation, so that who stops or
// deletes the VM meanwhile cancels it instead of waiting for it.
func (s *Service) bringUpAgain(l *liveVM) {
	s.Operations.Start("vm.ready", l.id, func(ctx context.Context, op *operation.Operation) error {
		op.SetResult(l.id)
		return s.locks.with(ctx, l.id, func() error {
			if _, alive := s.vmms.alive(l.id); !alive {
				return nil
			}
			wctx, cancel := context.WithTimeoutCause(ctx, s.ReadyTimeout, errNeverReady)
			defer cancel()
			err := s.waitAnswer(wctx, l)
			if err == nil {
				err = s.personalise(wctx, l)
			}
			if err == nil {
				err = s.waitReady(wctx, l)
			}
			if err == nil || context.Cause(ctx) != nil || api.CodeOf(err) == api.CodeCancelled || l.isGone() {
				return err
			}
			return errors.Join(err, s.notUpAgain(context.WithoutCancel(ctx), l, err))
		})
	})
}

// notUpAgain keeps a VM whose guest did not come up for a look.
func (s *Service) notUpAgain(ctx context.Context, l *liveVM, cause error) error {
	failure := &api.Failure{Code: api.CodeNotReady, Message: "the guest did not come up again: " + cause.Error(), At: s.Now().UTC(), ConsoleTail: consoleTail(s.Paths.VM(l.id))}
	_, err := s.Records.update(ctx, l.id, func(vm *api.VM) ([]api.Event, error) {
		if vm.State == api.StateStarting {
			vm.State = api.StateRunning
		}
		vm.LastError = failure
		return nil, nil
	})
	return err
}

// personality is everything that makes this guest this guest.
func (s *Service) personality(vm api.VM) (agentapi.Personalise, error) {
	p := agentapi.Personalise{
		Entropy: make([]byte, 64), Hostname: vm.Name, MachineID: vm.Runtime.MachineID,
		WorkDisk: &agentapi.WorkDisk{Device: agentapi.SerialWork}, SSHHostKeyPub: vm.Runtime.SSHHostKey,
	}
	if vm.State == api.StatePooled {
		p.Hostname = anonymous
	}
	s.Random(p.Entropy)
	var err error
	if p.SSHHostKey, err = os.ReadFile(s.Paths.VM(vm.ID).HostKey()); err != nil {
		return p, err
	}
	key, err := ssh.EnsureKey(s.Paths.SSHKey())
	if err != nil {
		return p, err
	}
	p.AuthorizedKeys, p.Git = []string{key}, vm.Git
	if vm.Spec.Net != api.NetNone {
		p.Network = s.Network.GuestConfig(guestOf(vm))
	}
	p.Time = s.Now()
	return p, nil
}

func (s *Service) markReady(ctx context.Context, l *liveVM) (api.VM, error) {
	now := s.Now().UTC()
	return s.Records.update(ctx, l.id, func(vm *api.VM) ([]api.Event, error) {
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
func (s *Service) keepClock(l *liveVM) {
	l.clock.Do(func() {
		s.life.do(func(ctx context.Context) {
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
				if err := l.agent.SetClock(cctx, s.Now()); err != nil {
					s.Log.Debug("cannot set a guest's clock", "vm", l.id, "error", err)
				}
				cancel()
			}
		})
	})
}
