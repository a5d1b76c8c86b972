package vm

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"banger/api"
	"banger/internal/operation"
)

// atOnce is how many VMs are suspended, stopped or started at a time as the host goes down or has come up.
const atOnce = 8

// HostPower does with all VMs what is to be done as the host goes down or has come up.
type HostPower struct {
	records    *Records
	operations *operation.Registry
	powers     *powers
	shutdown   Shutdown
	// stopTimeout bounds a guest's own shutdown where there is time for it.
	stopTimeout time.Duration
}

// Down suspends or stops every VM that runs, side by side, as long as there is time: what cannot be suspended is stopped,
// what does not stop is ended. One VM's trouble is a warning and keeps no other from it.
func (h *HostPower) Down(context.Context) (*operation.Operation, error) {
	return h.operations.Start("host.shutdown", "", func(ctx context.Context, op *operation.Operation) error {
		// A third of the time is for those that did not do as they were asked.
		first, cancel := context.WithTimeout(ctx, h.shutdown.Timeout*2/3)
		defer cancel()
		last, cancel := context.WithTimeout(ctx, h.shutdown.Timeout)
		defer cancel()
		// A host may go down while it still comes up: no VM is to start behind our back.
		if up, ok := h.operations.Running("host.boot", ""); ok {
			up.Cancel()
			_, _ = up.Wait(first) // however it ended, its VMs are looked at now
		}
		vms, err := h.records.List(ctx, nil)
		if err != nil {
			return err
		}
		var g errgroup.Group
		g.SetLimit(atOnce)
		for _, vm := range vms {
			if vm.State == api.StateStopped || vm.State == api.StateSuspended {
				continue
			}
			g.Go(func() error { h.endFor(first, last, op, vm); return nil })
		}
		return g.Wait()
	}), nil
}

func (h *HostPower) endFor(first, last context.Context, op *operation.Operation, vm api.VM) {
	ways := []struct {
		name  string
		ctx   context.Context
		begin func(context.Context) (*operation.Operation, error)
	}{
		{"suspend", first, func(ctx context.Context) (*operation.Operation, error) { return h.powers.Suspend(ctx, vm.ID) }},
		{"stop", first, func(ctx context.Context) (*operation.Operation, error) {
			return h.powers.Stop(ctx, vm.ID, h.untilForced(ctx))
		}},
		{"kill", last, func(ctx context.Context) (*operation.Operation, error) { return h.powers.Kill(ctx, vm.ID) }},
	}
	if !h.shutdown.Suspend {
		ways = ways[1:]
	}
	for _, w := range ways {
		err := h.await(w.ctx, w.begin)
		if err == nil || api.CodeOf(err) == api.CodeNotFound {
			return
		}
		op.Warn("cannot %s VM %s as the host goes down: %v", w.name, vm.Name, err)
	}
}

// untilForced leaves a stop the time for its own end by force.
func (h *HostPower) untilForced(ctx context.Context) time.Duration {
	end, ok := ctx.Deadline()
	if !ok {
		return h.stopTimeout
	}
	return max(time.Second, min(h.stopTimeout, time.Until(end)/2))
}

// await begins an operation and waits for its end; when ctx ends first, it is cancelled.
func (h *HostPower) await(ctx context.Context, begin func(context.Context) (*operation.Operation, error)) error {
	op, err := begin(ctx)
	if err != nil {
		return err
	}
	_, err = op.Wait(ctx)
	if ctx.Err() != nil {
		op.Cancel()
	}
	return err
}

// Up starts every VM that is to start with the host; a suspended one goes on.
func (h *HostPower) Up(ctx context.Context) (*operation.Operation, error) {
	vms, err := h.records.List(ctx, nil)
	if err != nil {
		return nil, err
	}
	return h.operations.Start("host.boot", "", func(ctx context.Context, op *operation.Operation) error {
		var g errgroup.Group
		g.SetLimit(atOnce)
		for _, vm := range vms {
			if !vm.Spec.Autostart || vm.State != api.StateStopped && vm.State != api.StateSuspended {
				continue
			}
			g.Go(func() error {
				if err := h.await(ctx, func(ctx context.Context) (*operation.Operation, error) {
					return h.powers.Start(ctx, vm.ID, api.VMStart{})
				}); err != nil {
					op.Warn("cannot start VM %s with the host: %v", vm.Name, err)
				}
				return nil
			})
		}
		return g.Wait()
	}), nil
}
