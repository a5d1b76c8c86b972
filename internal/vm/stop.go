package vm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/config"
	"banger/internal/network"
	"banger/internal/operation"
	"banger/internal/store"
)

// stops ends what runs for a VM, and takes from the host all that it holds besides its files.
type stops struct {
	store   *store.Store
	records *Records
	vmms    *vmms
	network *network.Network
	paths   config.Paths
	log     *slog.Logger
	now     func() time.Time
	// stopTimeout bounds a guest's own shutdown where nobody says otherwise.
	stopTimeout time.Duration
}

// stop is called with the VM's lock held.
func (t *stops) stop(ctx context.Context, op *operation.Operation, id string, timeout time.Duration) error {
	if timeout <= 0 {
		timeout = t.stopTimeout
	}
	l, alive := t.vmms.alive(id)
	if !alive {
		return t.kill(ctx, id, "requested")
	}
	if _, err := t.records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		vm.State, vm.Ready = api.StateStopping, false
		return []api.Event{{Kind: "vm.stopping"}}, nil
	}); err != nil {
		return err
	}
	begin := t.now()
	forced := false
	err := op.Step(ctx, "shut down", func(ctx context.Context) error {
		actx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		// A VMM that hangs, or an agent that refuses or has died, is no reason for a stop to fail: it is forced below.
		if l.instance.Standing() {
			if err := l.instance.Resume(actx); err != nil {
				t.log.Warn("the guest stands still", "vm", id, "error", err)
			}
		}
		if err := l.agent.Shutdown(actx, agentapi.Shutdown{TimeoutMS: timeout.Milliseconds()}); err != nil {
			t.log.Warn("the guest did not take the request to shut down", "vm", id, "error", err)
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
		op.Warn("the guest did not power off within %s and was forced", t.now().Sub(begin).Round(time.Second))
	}
	return t.kill(ctx, id, "requested")
}

// kill ends whatever runs for a VM and tears its things down; called with the VM's lock held.
// It works by the live VMM, by the handles, and by derived names, so that it also cleans up after crashes.
func (t *stops) kill(ctx context.Context, id, reason string) error {
	ctx = context.WithoutCancel(ctx) // half a teardown helps nobody
	_, err := t.stopped(ctx, id, reason, nil)
	return err
}

// endTime bounds the wait for a killed process to be gone.
const endTime = 10 * time.Second

// stopped tears down all that a VM holds on the host besides its files, and records that it
// is stopped. Every step runs, whatever the others do. Called with the VM's lock held.
func (t *stops) stopped(ctx context.Context, id, reason string, failure *api.Failure) (api.VM, error) {
	vm, err := t.store.VM(ctx, id)
	if err != nil {
		return vm, err
	}
	if err := t.letGo(ctx, vm); err != nil {
		return vm, err
	}
	now := t.now().UTC()
	return t.records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
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
		if !exists(t.paths.VM(id).Frozen()) {
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
func (t *stops) letGo(ctx context.Context, vm api.VM) error {
	var ended, detached error
	var both sync.WaitGroup
	both.Go(func() { detached = t.detachNetwork(ctx, vm) })
	ended = t.vmms.end(ctx, vm)
	operation.Stage(ctx, "end process")
	both.Wait()
	operation.Stage(ctx, "detach network")
	if err := errors.Join(ended, detached); err != nil {
		return fmt.Errorf("cannot tear down VM %s: %w", vm.Name, err)
	}
	if err := t.vmms.handles.Clear(vm.ID); err != nil {
		return err
	}
	t.removeSockets(vm)
	return nil
}

// detachNetwork removes a VM's link by derived names, whatever its handles say.
func (t *stops) detachNetwork(ctx context.Context, vm api.VM) error {
	if vm.Spec.Net == api.NetNone {
		return nil
	}
	return t.network.Detach(ctx, guestOf(vm))
}

// removeSockets removes what an ended VMM left, so that nobody connects to nothing.
func (t *stops) removeSockets(vm api.VM) {
	p := t.paths.VM(vm.ID)
	removeFiles(p.ControlSocket(), p.AgentSocket(), p.NetSocket())
}
