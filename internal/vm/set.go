package vm

import (
	"cmp"
	"context"
	"slices"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/config"
	"banger/internal/image"
	"banger/internal/layer"
	"banger/internal/operation"
	"banger/internal/store"
)

// changes is what becomes of a VM that is there: its spec, the sizes of its disks, a fresh root.
type changes struct {
	store      *store.Store
	records    *Records
	locks      *vmLocks
	operations *operation.Registry
	specs      *specs
	machines   *machines
	images     *image.Service
	layers     *layer.Service
	alive      func(id string) (*liveVM, bool)
	paths      config.Paths
}

// Update changes a VM's spec. A disk of a running VM grows at once; CPUs and memory take effect at the
// next start, and stand in Pending until then.
func (c *changes) Update(ctx context.Context, ref string, u api.VMUpdate) (api.VM, error) {
	vm, err := c.records.Get(ctx, ref)
	if err != nil {
		return vm, err
	}
	unlock, err := c.locks.Lock(ctx, vm.ID)
	if err != nil {
		return vm, err
	}
	defer unlock()
	if vm, err = c.store.VM(ctx, vm.ID); err != nil {
		return vm, err
	}
	spec, err := updated(vm, u)
	if err != nil {
		return vm, err
	}
	if vm.State == api.StateSuspended && (spec.CPUs != vm.Spec.CPUs || spec.MemoryBytes != vm.Spec.MemoryBytes) {
		return vm, api.Errorf(api.CodeConflict, "VM %s is suspended, and its frozen memory goes with the CPUs and the memory that it had", vm.Name).
			WithHint("banger vm stop %s", vm.Name)
	}
	if _, err := c.specs.forHost(ctx, spec); err != nil {
		return vm, err
	}
	if err := c.growDisks(ctx, vm, spec); err != nil {
		return vm, err
	}
	vm, err = c.records.update(ctx, vm.ID, func(vm *api.VM) ([]api.Event, error) {
		if vm.State != api.StateStopped {
			vm.Pending = pending(vm.Pending, vm.Spec, spec)
		}
		vm.Spec = spec
		return []api.Event{{Kind: "vm.updated"}}, nil
	})
	if l, alive := c.alive(vm.ID); alive && u.IdleSuspendMS != nil {
		l.policyChanged()
	}
	return vm, err
}

func updated(vm api.VM, u api.VMUpdate) (api.VMSpec, error) {
	spec := vm.Spec
	set(&spec.CPUs, u.CPUs)
	set(&spec.MemoryBytes, u.MemoryBytes)
	set(&spec.DiskBytes, u.DiskBytes)
	set(&spec.RootBytes, u.RootBytes)
	set(&spec.Autostart, u.Autostart)
	set(&spec.IdleSuspendMS, u.IdleSuspendMS)
	spec.IdleSuspendMS = max(0, spec.IdleSuspendMS)
	if spec.CPUs < 1 || spec.MemoryBytes < 1 || spec.DiskBytes < 1 {
		return spec, api.Errorf(api.CodeInvalid, "CPUs, memory and disk size must be over 0")
	}
	if spec.DiskBytes < vm.Spec.DiskBytes || spec.RootBytes < vm.Spec.RootBytes {
		return spec, api.Errorf(api.CodeInvalid, "disks only grow: the work disk has %d MiB, the root disk %d MiB", vm.Spec.DiskBytes>>20, vm.Spec.RootBytes>>20)
	}
	labels := map[string]string{}
	for k, v := range vm.Spec.Labels {
		labels[k] = v
	}
	for k, v := range u.Labels {
		if labels[k] = v; v == "" {
			delete(labels, k)
		}
	}
	spec.Labels = labels
	return spec, spec.Validate()
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// pending adds what the running VM does not have yet.
func pending(have []string, is, wanted api.VMSpec) []string {
	add := func(name string, differs bool) {
		if differs && !slices.Contains(have, name) {
			have = append(have, name)
		}
	}
	add("cpus", is.CPUs != wanted.CPUs)
	add("memory_bytes", is.MemoryBytes != wanted.MemoryBytes)
	return have
}

// growDisks makes the disks as large as the new spec says: through the VMM while it runs, else by
// the disk driver. Disks that do not exist yet are made in that size by the start.
func (c *changes) growDisks(ctx context.Context, vm api.VM, spec api.VMSpec) error {
	l, alive := c.alive(vm.ID)
	grew := false
	for _, d := range []struct {
		serial, path, layer string
		from, to            int64
	}{
		{agentapi.SerialRoot, vm.Runtime.SystemOverlay, vm.Runtime.RootLayerID, vm.Spec.RootBytes, spec.RootBytes},
		{agentapi.SerialWork, vm.Runtime.WorkDiskPath, vm.Runtime.WorkLayerID, vm.Spec.DiskBytes, spec.DiskBytes},
	} {
		if d.to == d.from || !exists(d.path) {
			continue
		}
		if !alive {
			if err := c.machines.backend(vm).Driver(d.layer).Grow(ctx, d.path, d.to); err != nil {
				return err
			}
			continue
		}
		if err := l.instance.GrowDrive(ctx, d.serial, d.to); err != nil {
			return err
		}
		grew = true
	}
	if grew {
		_, err := l.agent.Grow(ctx)
		return err
	}
	return nil
}

// Reset gives a stopped VM a fresh root disk; the work disk stays.
func (c *changes) Reset(ctx context.Context, ref string, r api.VMReset) (*operation.Operation, error) {
	vm, err := c.records.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if vm.State != api.StateStopped {
		return nil, api.Errorf(api.CodeConflict, "VM %s is %s", vm.Name, vm.State).WithHint("banger vm stop %s", vm.Name)
	}
	spec := vm.Spec
	spec.RootBytes = cmp.Or(r.RootBytes, spec.RootBytes)
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if img, err := c.images.Image(ctx, vm.Runtime.ImageDigest); err == nil && spec.RootBytes != 0 && spec.RootBytes < img.SizeBytes {
		return nil, api.Errorf(api.CodeInvalid, "root size is %d MiB, but image %s has %d MiB", spec.RootBytes>>20, img.Name, img.SizeBytes>>20)
	}
	return c.operations.Start("vm.reset", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		op.SetResult(vm.ID)
		return op.Step(ctx, "reset", func(ctx context.Context) error {
			return c.locks.with(ctx, vm.ID, func() error { return c.reset(ctx, vm.ID, spec.RootBytes) })
		})
	}), nil
}

func (c *changes) reset(ctx context.Context, id string, rootBytes int64) error {
	vm, err := c.store.VM(ctx, id)
	if err != nil {
		return err
	}
	if vm.State != api.StateStopped {
		return api.Errorf(api.CodeConflict, "VM %s is %s", vm.Name, vm.State)
	}
	// The start makes a new root where none is. What the old one lay on is forgotten after it is gone.
	if err := c.machines.backend(vm).Disks.Delete(ctx, vm.Runtime.SystemOverlay); err != nil {
		return err
	}
	layered := vm.Runtime.RootLayerID != ""
	if _, err = c.records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		vm.Spec.RootBytes = rootBytes
		vm.Runtime.SystemOverlay, vm.Runtime.RootLayerID, vm.Runtime.RootTemplateID = c.paths.VM(id).RootDisk(), "", ""
		return []api.Event{{Kind: "vm.reset"}}, nil
	}); err != nil || !layered {
		return err
	}
	return c.layers.Sweep(ctx)
}
