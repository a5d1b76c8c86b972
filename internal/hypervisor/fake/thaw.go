package fake

import (
	"context"

	"banger/api"
	"banger/internal/host"
	"banger/internal/hypervisor"
)

// Thaw is being built.
func (h *Hypervisor) Thaw(context.Context, hypervisor.Machine, hypervisor.Frozen, func(host.Process) error) (hypervisor.Instance, error) {
	return nil, api.Errorf(api.CodeUnsupported, "cannot thaw yet")
}

// Stamp is being built.
func (h *Hypervisor) Stamp(context.Context, hypervisor.Machine) (hypervisor.Stamp, error) {
	return nil, api.Errorf(api.CodeUnsupported, "cannot thaw yet")
}

func (i *instance) Freeze(context.Context, hypervisor.Freeze) (hypervisor.FreezeResult, error) {
	return hypervisor.FreezeResult{}, api.Errorf(api.CodeUnsupported, "cannot freeze yet")
}
func (i *instance) Pause(context.Context) error {
	return api.Errorf(api.CodeUnsupported, "cannot pause yet")
}
func (i *instance) Resume(context.Context) error {
	return api.Errorf(api.CodeUnsupported, "cannot pause yet")
}
func (i *instance) SetLink(context.Context, bool) error {
	return api.Errorf(api.CodeUnsupported, "cannot set the link yet")
}
