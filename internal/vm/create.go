package vm

import (
	"context"
	"encoding/json"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/operation"
	"banger/internal/store"
)

// creates makes VMs, of nothing or of a snapshot.
type creates struct {
	store       *store.Store
	records     *Records
	locks       *vmLocks
	operations  *operation.Registry
	specs       *specs
	start       func(ctx context.Context, op *operation.Operation, id string, want api.VMStart) error
	makeHostKey func(ctx context.Context, vm api.VM) error
	takes       *takes
	snapshots   *Snapshots
	remove      func(ctx context.Context, id string) error
	newID       func() string
	paths       config.Paths
	now         func() time.Time
	// giveUp has the pool give a clone up; false when it has none.
	giveUp func(context.Context) (bool, error)
}

// Create reserves a VM: name, address, uid and record, in one transaction and in
// milliseconds. Nothing is made on the host yet. With c.Start it goes on to start it;
// when that fails or is cancelled the VM is gone again, but for one whose guest never became
// ready, which is kept for a look (unless it is to be removed automatically).
func (cr *creates) Create(ctx context.Context, c api.VMCreate) (api.VM, *operation.Operation, bool, error) {
	if err := c.Validate(); err != nil {
		return api.VM{}, nil, false, err
	}
	git := c.Git
	c.Git = nil
	request, err := json.Marshal(c)
	if err != nil {
		return api.VM{}, nil, false, err
	}
	c.Git = git
	if c.Snapshot != "" {
		return cr.createFrom(ctx, c, string(request))
	}
	spec, err := cr.specs.forHost(ctx, cr.specs.withDefaults(c.Spec))
	if err != nil {
		return api.VM{}, nil, false, err
	}
	vm := api.VM{ID: cr.newID(), Name: c.Name, ClientID: c.ClientID, State: api.StateStopped, Spec: spec, Git: c.Git, Pending: []string{}, CreatedAt: cr.now().UTC()}
	if err := cr.specs.pinObjects(ctx, &vm); err != nil {
		return api.VM{}, nil, false, err
	}
	if c.Start && !c.Cold {
		if vm, op, ok := cr.takes.takeFor(ctx, vm, string(request)); ok {
			return vm, op, true, nil
		}
	}
	cr.specs.derive(&vm)
	vm, created, err := cr.insert(ctx, vm, string(request))
	if err != nil {
		return api.VM{}, nil, false, err
	}
	cr.records.Wake()
	return cr.startCreated(vm, created, c)
}

// startCreated starts a VM that has been reserved, if that is wanted.
func (cr *creates) startCreated(vm api.VM, created bool, c api.VMCreate) (api.VM, *operation.Operation, bool, error) {
	if !c.Start {
		return vm, nil, created, nil
	}
	if !created && vm.State != api.StateStopped && vm.State != api.StateSuspended {
		return vm, nil, false, nil
	}
	op := cr.operations.Start("vm.start", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		if created {
			op.Undo("create", func(ctx context.Context) error { return cr.remove(ctx, vm.ID) })
		}
		return cr.start(ctx, op, vm.ID, api.VMStart{Cold: c.Cold})
	})
	return vm, op, created, nil
}

// insert reserves what a VM needs; where there is no address or uid left, the pool gives one up.
func (cr *creates) insert(ctx context.Context, vm api.VM, request string) (api.VM, bool, error) {
	for {
		out, created, err := cr.store.InsertVM(ctx, vm, request, cr.specs.reserve)
		if api.CodeOf(err) != api.CodeExhausted {
			return out, created, err
		}
		if given, gerr := cr.giveUp(ctx); gerr != nil || !given {
			return out, created, err
		}
	}
}
