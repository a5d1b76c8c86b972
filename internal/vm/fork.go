package vm

import (
	"context"
	"maps"
	"slices"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/guest/ssh"
	"banger/internal/operation"
	"banger/internal/store"
)

// forks makes VMs that go on from where a running one is.
type forks struct {
	store      *store.Store
	records    *Records
	locks      *vmLocks
	operations *operation.Registry
	specs      *specs
	machines   *machines
	points     *points
	starts     *starts
	bringUp    *bringUp
	remove     func(ctx context.Context, id string) error
	knownHosts ssh.KnownHosts
	newID      func() string
	paths      config.Paths
	now        func() time.Time
	// readyTimeout bounds the wait for a fork's guest.
	readyTimeout time.Duration
}

// Fork makes machines that go on from where a running or paused VM is at this moment: memory, root and work disk. Each is a machine of
// its own; the source runs on, having stood still for milliseconds. Names, addresses and uids are reserved when it returns, all of
// them or none; the operation makes all forks or none.
func (f *forks) Fork(ctx context.Context, ref string, want api.VMFork) ([]api.VM, *operation.Operation, error) {
	if err := want.Validate(); err != nil {
		return nil, nil, err
	}
	source, err := f.records.Get(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	if _, err := f.points.forkable(source); err != nil {
		return nil, nil, err
	}
	names := want.AllNames()
	if err := f.starts.admit(ctx, source.Spec.MemoryBytes, len(names)); err != nil {
		return nil, nil, err
	}
	vms := make([]api.VM, len(names))
	for n, name := range names {
		vms[n] = f.newFork(source, name, want)
	}
	if vms, err = f.store.InsertVMs(ctx, vms, f.specs.reserve); err != nil {
		return nil, nil, err
	}
	f.records.Wake()
	op := f.operations.Start("vm.fork", source.ID, func(ctx context.Context, op *operation.Operation) error {
		return (&fork{forks: f, op: op, source: source, vms: vms, frozen: make(chan struct{})}).run(ctx)
	})
	return vms, op, nil
}

// newFork is the record of a fork that is yet to be made.
func (f *forks) newFork(source api.VM, name string, want api.VMFork) api.VM {
	vm := api.VM{ID: f.newID(), Name: name, State: api.StateStarting, Spec: source.Spec, Pending: []string{}, CreatedAt: f.now().UTC()}
	vm.Spec.AutoRemove, vm.Spec.Autostart = want.AutoRemove, false
	vm.Spec.Labels = map[string]string{}
	maps.Copy(vm.Spec.Labels, source.Spec.Labels)
	for k, v := range want.Labels {
		if vm.Spec.Labels[k] = v; v == "" {
			delete(vm.Spec.Labels, k)
		}
	}
	vm.Workspaces, vm.Git = slices.Clone(source.Workspaces), source.Git
	was, r := source.Runtime, &vm.Runtime
	r.ImageDigest, r.KernelDigest, r.Accel = was.ImageDigest, was.KernelDigest, was.Accel
	r.ForkOf, r.Forking = source.ID, true
	// From now on, since what they end at must not go meanwhile.
	r.RootTemplateID, r.WorkTemplateID = was.RootTemplateID, was.WorkTemplateID
	f.specs.derive(&vm)
	return vm
}
