package vm

import (
	"context"
	"maps"
	"slices"

	"banger/api"
	"banger/internal/operation"
)

// Fork makes machines that go on from where a running or paused VM is at this moment: memory, root and work disk. Each is a machine of
// its own; the source runs on, having stood still for milliseconds. Names, addresses and uids are reserved when it returns, all of
// them or none; the operation makes all forks or none.
func (s *Service) Fork(ctx context.Context, ref string, want api.VMFork) ([]api.VM, *operation.Operation, error) {
	if err := want.Validate(); err != nil {
		return nil, nil, err
	}
	source, err := s.Records.Get(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	if _, err := s.points.forkable(source); err != nil {
		return nil, nil, err
	}
	names := want.AllNames()
	if err := s.admit(ctx, source.Spec.MemoryBytes, len(names)); err != nil {
		return nil, nil, err
	}
	vms := make([]api.VM, len(names))
	for n, name := range names {
		vms[n] = s.newFork(source, name, want)
	}
	if vms, err = s.Store.InsertVMs(ctx, vms, s.reserve); err != nil {
		return nil, nil, err
	}
	s.Records.Wake()
	op := s.Operations.Start("vm.fork", source.ID, func(ctx context.Context, op *operation.Operation) error {
		return (&fork{Service: s, op: op, source: source, vms: vms, frozen: make(chan struct{})}).run(ctx)
	})
	return vms, op, nil
}

// newFork is the record of a fork that is yet to be made.
func (s *Service) newFork(source api.VM, name string, want api.VMFork) api.VM {
	vm := api.VM{ID: s.names.newID(), Name: name, State: api.StateStarting, Spec: source.Spec, Pending: []string{}, CreatedAt: s.Now().UTC()}
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
	s.derive(&vm)
	return vm
}
