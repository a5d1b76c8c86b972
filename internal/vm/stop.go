package vm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/operation"
)

// Stop asks the guest to sync and power off, and forces it after timeout (0: the default). A suspended VM
// is thawed for that. A stopped VM is no error.
func (s *Service) Stop(ctx context.Context, ref string, timeout time.Duration) (*operation.Operation, error) {
	vm, err := s.Records.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	s.Operations.CancelStarts(vm.ID)
	return s.Operations.Start("vm.stop", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		op.SetResult(vm.ID)
		if vm.State == api.StateSuspended {
			if err := s.start(ctx, op, vm.ID, api.VMStart{}); err != nil {
				return err
			}
		}
		if err := s.locks.with(ctx, vm.ID, func() error { return s.stop(ctx, op, vm.ID, timeout) }); err != nil {
			return err
		}
		return s.autoRemove(ctx, op, vm)
	}), nil
}

// Kill is power-off at once, also of a suspended VM, whose frozen memory is lost. A stopped VM is no error.
func (s *Service) Kill(ctx context.Context, ref string) (*operation.Operation, error) {
	vm, err := s.Records.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	s.Operations.CancelStarts(vm.ID)
	return s.Operations.Start("vm.kill", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		op.SetResult(vm.ID)
		if err := op.Step(ctx, "kill", func(ctx context.Context) error {
			return s.locks.with(ctx, vm.ID, func() error {
				return errors.Join(s.discardMemory(ctx, vm.ID), s.kill(ctx, vm.ID, "killed"))
			})
		}); err != nil {
			return err
		}
		return s.autoRemove(ctx, op, vm)
	}), nil
}

// autoRemove removes a VM that was stopped and is to go with that.
func (s *Service) autoRemove(ctx context.Context, op *operation.Operation, vm api.VM) error {
	if !vm.Spec.AutoRemove {
		return nil
	}
	return op.Step(ctx, "remove", func(ctx context.Context) error { return s.remove(ctx, vm.ID) })
}

// Restart stops a VM if it runs, and starts it.
func (s *Service) Restart(ctx context.Context, ref string, timeout time.Duration) (*operation.Operation, error) {
	vm, err := s.Records.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	return s.Operations.Start("vm.restart", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		if err := s.locks.with(ctx, vm.ID, func() error { return s.stop(ctx, op, vm.ID, timeout) }); err != nil {
			return err
		}
		return s.start(ctx, op, vm.ID, api.VMStart{})
	}), nil
}

// stop is called with the VM's lock held.
func (s *Service) stop(ctx context.Context, op *operation.Operation, id string, timeout time.Duration) error {
	if timeout <= 0 {
		timeout = s.StopTimeout
	}
	l, alive := s.vmms.alive(id)
	if !alive {
		return s.kill(ctx, id, "requested")
	}
	if _, err := s.Records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		vm.State, vm.Ready = api.StateStopping, false
		return []api.Event{{Kind: "vm.stopping"}}, nil
	}); err != nil {
		return err
	}
	begin := s.Now()
	forced := false
	err := op.Step(ctx, "shut down", func(ctx context.Context) error {
		actx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		// A VMM that hangs, or an agent that refuses or has died, is no reason for a stop to fail: it is forced below.
		if l.instance.Standing() {
			if err := l.instance.Resume(actx); err != nil {
				s.Log.Warn("the guest stands still", "vm", id, "error", err)
			}
		}
		if err := l.agent.Shutdown(actx, agentapi.Shutdown{TimeoutMS: timeout.Milliseconds()}); err != nil {
			s.Log.Warn("the guest did not take the request to shut down", "vm", id, "error", err)
		}
		select {
		case <-l.gone:
		case <-actx.Done():
			forced = true
		}
		return context.Cause(ctx)
	})
	if err != nil {
		return err
	}
	if forced {
		op.Warn("the guest did not power off within %s and was forced", s.Now().Sub(begin).Round(time.Second))
	}
	return s.kill(ctx, id, "requested")
}

// kill ends whatever runs for a VM and tears its things down; called with the VM's lock held.
// It works by the live VMM, by the handles, and by derived names, so that it also cleans up after crashes.
func (s *Service) kill(ctx context.Context, id, reason string) error {
	ctx = context.WithoutCancel(ctx) // half a teardown helps nobody
	_, err := s.stopped(ctx, id, reason, nil)
	return err
}

// endTime bounds the wait for a killed process to be gone.
const endTime = 10 * time.Second

// stopped tears down all that a VM holds on the host besides its files, and records that it
// is stopped. Every step runs, whatever the others do. Called with the VM's lock held.
func (s *Service) stopped(ctx context.Context, id, reason string, failure *api.Failure) (api.VM, error) {
	vm, err := s.Store.VM(ctx, id)
	if err != nil {
		return vm, err
	}
	if err := s.letGo(ctx, vm); err != nil {
		return vm, err
	}
	now := s.Now().UTC()
	return s.Records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		was := vm.State
		vm.Ready, vm.ReadyAt = false, nil
		if vm.State != api.StateDeleting && vm.State != api.StateSuspended && vm.State != api.StatePooled {
			vm.State = api.StateStopped
		}
		if failure != nil {
			vm.LastError = failure
		}
		if vm.State == api.StateSuspended { // all that ran in it goes on one day
			vm.StoppedAt, vm.StopReason = &now, reason
			return nil, nil
		}
		vm.Runtime.Thawed = false
		if vm.Main != nil && vm.Main.EndedAt == nil {
			vm.Main.EndedAt, vm.Main.Error = &now, "the VM stopped: "+reason
		}
		if !exists(s.Paths.VM(id).Frozen()) {
			vm.Runtime.Forking = false // its next start is a boot, which makes it a machine of its own as any other
		}
		if was == api.StateStopped {
			return nil, nil
		}
		vm.StoppedAt, vm.StopReason, vm.Pending = &now, reason, []string{}
		return []api.Event{{Kind: "vm.stopped", Data: map[string]string{"reason": reason}}}, nil
	})
}

// letGo takes from the host all that a VM holds besides its files. Its process and its network end side by side: neither
// needs the other to be gone first.
func (s *Service) letGo(ctx context.Context, vm api.VM) error {
	var ended, detached error
	var both sync.WaitGroup
	both.Go(func() { detached = s.detachNetwork(ctx, vm) })
	ended = s.vmms.end(ctx, vm)
	operation.Stage(ctx, "end process")
	both.Wait()
	operation.Stage(ctx, "detach network")
	if err := errors.Join(ended, detached); err != nil {
		return fmt.Errorf("cannot tear down VM %s: %w", vm.Name, err)
	}
	if err := s.vmms.handles.Clear(vm.ID); err != nil {
		return err
	}
	s.machines.removeSockets(vm)
	return nil
}
