package vm

import (
	"context"
	"fmt"
	"io"
	"time"

	"banger/api"
	"banger/internal/guest"
	"banger/internal/operation"
	"banger/internal/store"
)

// Guests is what people do in VMs' guests.
type Guests struct {
	store      *store.Store
	records    *Records
	operations *operation.Registry
	vmms       *vmms
	start      func(ctx context.Context, op *operation.Operation, id string, want api.VMStart) error
	mains      *mains
	uses       *uses
	life       *background
	now        func() time.Time
	// sessionLog is what is kept in the guest of each stream of a session, in bytes.
	sessionLog int64
}

// reach is how everybody who wants something of a VM's guest gets to it. It is a use until end is called, and it wakes a
// suspended VM that has an idle policy: whoever reaches it need not know that it slept.
func (g *Guests) reach(ctx context.Context, ref string) (vm api.VM, l *liveVM, end func(), err error) {
	if vm, err = g.records.Get(ctx, ref); err != nil {
		return vm, nil, nil, err
	}
	end, waited, err := g.uses.begin(ctx, vm.ID, g.now)
	if err != nil {
		return vm, nil, nil, err
	}
	if vm, l, err = g.awake(ctx, vm, waited); err != nil {
		end()
		return vm, nil, nil, err
	}
	return vm, l, end, nil
}

// Reach is reach for packages beside this one. why may know a better reason for an error of a call.
func (g *Guests) Reach(ctx context.Context, ref string) (vm api.VM, agent *guest.Client, why func(error) error, end func(), err error) {
	vm, l, end, err := g.reach(ctx, ref)
	if err != nil {
		return vm, nil, nil, nil, err
	}
	return vm, l.agent, l.why, end, nil
}

// Look is the way to a running VM's guest for those who only look: it is no use, and wakes nobody.
func (g *Guests) Look(ctx context.Context, ref string) (api.VM, *guest.Client, error) {
	vm, err := g.records.Get(ctx, ref)
	if err != nil {
		return vm, nil, err
	}
	vm, l, err := g.vmms.liveOf(vm)
	if err != nil {
		return vm, nil, err
	}
	return vm, l.agent, nil
}

func (g *Guests) awake(ctx context.Context, vm api.VM, old bool) (api.VM, *liveVM, error) {
	if _, alive := g.vmms.alive(vm.ID); alive && !old && vm.State == api.StateRunning {
		return g.vmms.liveOf(vm)
	}
	vm, err := g.records.Get(ctx, vm.ID)
	if err != nil {
		return vm, nil, err
	}
	if vm.Spec.IdleSuspendMS > 0 && (vm.State == api.StateSuspended || g.uses.waking(vm.ID)) {
		if err := g.wake(ctx, vm); err != nil {
			return vm, nil, err
		}
		if vm, err = g.records.Get(ctx, vm.ID); err != nil {
			return vm, nil, err
		}
	}
	return g.vmms.liveOf(vm)
}

// wake starts a suspended VM, once for all who want it at the same time. The start goes on when its caller has gone.
func (g *Guests) wake(ctx context.Context, vm api.VM) error {
	op := g.uses.wake(vm.ID, func() *operation.Operation {
		return g.operations.Start("vm.start", vm.ID, func(ctx context.Context, op *operation.Operation) error {
			return g.start(ctx, op, vm.ID, api.VMStart{})
		})
	})
	if _, err := op.Wait(ctx); err != nil {
		return fmt.Errorf("VM %s was suspended and cannot be woken: %w", vm.Name, err)
	}
	return nil
}

// endOnClose is a stream of a guest whose Close ends its use.
type endOnClose struct {
	io.ReadCloser
	end func()
}

func (c endOnClose) Close() error {
	defer c.end()
	return c.ReadCloser.Close()
}

// dialled is a connection to a guest whose Close ends its use.
type dialled struct {
	guest.HalfCloser
	end func()
}

func (c dialled) Close() error {
	defer c.end()
	return c.HalfCloser.Close()
}
