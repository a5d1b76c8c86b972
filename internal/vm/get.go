package vm

import (
	"context"
	"slices"
	"strings"

	"banger/api"
)

// Get finds one VM by id, prefix of an id, or name.
func (s *Service) Get(ctx context.Context, ref string) (api.VM, error) {
	if ref == "" {
		return api.VM{}, api.Errorf(api.CodeInvalid, "no VM named").WithHint("banger vm list --all")
	}
	return s.Store.FindVM(ctx, ref)
}

// List returns the VMs that pass all filters, oldest first. A filter is "state=STATE", "label=KEY" or
// "label=KEY=VALUE"; several states are alternatives, several labels must all match.
func (s *Service) List(ctx context.Context, filters []string) ([]api.VM, error) {
	states, match, err := parseFilters(filters)
	if err != nil {
		return nil, err
	}
	vms, err := s.Store.VMsIn(ctx, states...)
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
func (s *Service) Count(ctx context.Context) (map[api.State]int, error) { return s.Store.CountVMs(ctx) }

func knownState(s api.State) bool {
	switch s {
	case api.StateStopped, api.StateStarting, api.StateRunning, api.StateStopping, api.StateSuspended, api.StatePaused, api.StateDeleting, api.StatePooled:
		return true
	}
	return false
}
