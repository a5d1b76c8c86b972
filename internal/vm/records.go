package vm

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"banger/api"
	"banger/internal/store"
	"banger/internal/template"
)

// Records is what is recorded of VMs, and who waits for it to change. Every change goes by update, or is followed by Wake.
type Records struct {
	store   *store.Store
	now     func() time.Time
	life    *background
	changes broadcast
}

// Get finds one VM by id, prefix of an id, or name.
func (r *Records) Get(ctx context.Context, ref string) (api.VM, error) {
	if ref == "" {
		return api.VM{}, api.Errorf(api.CodeInvalid, "no VM named").WithHint("banger vm list --all")
	}
	return r.store.FindVM(ctx, ref)
}

// List returns the VMs that pass all filters, oldest first. A filter is "state=STATE", "label=KEY" or
// "label=KEY=VALUE"; several states are alternatives, several labels must all match.
func (r *Records) List(ctx context.Context, filters []string) ([]api.VM, error) {
	states, match, err := parseFilters(filters)
	if err != nil {
		return nil, err
	}
	vms, err := r.store.VMsIn(ctx, states...)
	if err != nil {
		return nil, err
	}
	out := []api.VM{}
	pooled := slices.Contains(filters, "state="+string(api.StatePooled)) // they are shown to those who ask for them
	for _, vm := range vms {
		if match(vm) && (vm.State != api.StatePooled || pooled) {
			out = append(out, vm)
		}
	}
	return out, nil
}

// parseFilters leaves the states to the store: there may be very many VMs that are stopped.
func parseFilters(filters []string) (states []api.State, match func(api.VM) bool, err error) {
	var labels []func(map[string]string) bool
	for _, f := range filters {
		kind, arg, ok := strings.Cut(f, "=")
		switch {
		case ok && kind == "state":
			if !knownState(api.State(arg)) {
				return nil, nil, api.Errorf(api.CodeInvalid, "%q is no state: stopped, starting, running, stopping, suspended, paused, deleting, pooled", arg)
			}
			states = append(states, api.State(arg))
		case ok && kind == "label" && arg != "":
			key, want, exact := strings.Cut(arg, "=")
			labels = append(labels, func(have map[string]string) bool {
				v, ok := have[key]
				return ok && (!exact || v == want)
			})
		default:
			return nil, nil, api.Errorf(api.CodeInvalid, "filter %q is neither state=STATE nor label=KEY[=VALUE]", f)
		}
	}
	return states, func(vm api.VM) bool {
		for _, l := range labels {
			if !l(vm.Spec.Labels) {
				return false
			}
		}
		return true
	}, nil
}

// Count tells how many VMs are in each state.
func (r *Records) Count(ctx context.Context) (map[api.State]int, error) { return r.store.CountVMs(ctx) }

func knownState(s api.State) bool {
	switch s {
	case api.StateStopped, api.StateStarting, api.StateRunning, api.StateStopping, api.StateSuspended, api.StatePaused, api.StateDeleting, api.StatePooled:
		return true
	}
	return false
}

// update changes a record and wakes everybody who waits for changes.
func (r *Records) update(ctx context.Context, id string, fn func(*api.VM) ([]api.Event, error)) (api.VM, error) {
	vm, err := r.store.UpdateVM(ctx, id, fn)
	if err == nil {
		r.Wake()
	}
	return vm, err
}

func (r *Records) noteFailure(ctx context.Context, id string, cause error) error {
	_, err := r.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		vm.LastError = &api.Failure{Code: api.CodeOf(cause), Message: cause.Error(), At: r.now().UTC()}
		return nil, nil
	})
	return err
}

// TemplateInUse tells which VM's or snapshot's disks or memory lie on a template.
func (r *Records) TemplateInUse(ctx context.Context) template.InUse {
	// In this order: a VM that goes on from a snapshot is recorded before the snapshot can go.
	snaps, err1 := r.store.Snapshots(ctx)
	vms, err2 := r.store.VMs(ctx)
	err := errors.Join(err1, err2)
	return func(id string) (string, bool) {
		if err != nil {
			return "?", true // who cannot ask removes nothing
		}
		for _, vm := range vms {
			if vm.Runtime.RootTemplateID == id || vm.Runtime.WorkTemplateID == id {
				return vm.Name, true
			}
		}
		for _, snap := range snaps {
			if snap.RootTemplateID == id || snap.WorkTemplateID == id {
				return snap.VM + "/" + snap.Name, true
			}
		}
		return "", false
	}
}
