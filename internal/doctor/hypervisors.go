package doctor

import (
	"context"

	"banger/api"
	"banger/internal/backend"
)

// hypervisors: nothing works without one; emulation works, but slower. Where VMs can be run, one that they cannot be run by is no failure.
func (o Options) hypervisors(ctx context.Context) []api.Check {
	chosen, err := o.Backends.Choose(ctx, "", api.NetKind(o.Config.Net))
	var checks []api.Check
	if err != nil {
		for _, b := range o.Backends.All() {
			checks = append(checks, o.failing(ctx, b))
		}
		return checks
	}
	for _, b := range o.Backends.All() {
		checks = append(checks, o.passedOver(ctx, b, chosen))
	}
	f := chosen.Features
	if f.Accel == "tcg" {
		return append(checks, warn("acceleration", o.asThisUser(f.AccelHint), "software emulation (tcg): %s", f.AccelReason))
	}
	return append(checks, ok("acceleration", "%s: %s", f.Accel, f.AccelReason))
}

// passedOver is about a hypervisor where VMs are run by chosen, which may be the same one.
func (o Options) passedOver(ctx context.Context, b backend.Backend, chosen backend.Choice) api.Check {
	f, err := b.Hypervisor.Features(ctx)
	e := api.AsError(err)
	switch {
	case err == nil && f.TapOnly && o.Config.Net == string(api.NetUser):
		return ok(b.Name(), "%s; not used with --net user", f.Version)
	case err == nil && f.Caveat != "":
		return warn(b.Name(), "", "%s; %s", f.Version, f.Caveat)
	case err == nil:
		return ok(b.Name(), "%s", f.Version)
	case chosen.Features.Accel == "tcg" && e.Hint == chosen.Features.AccelHint: // said once, as the acceleration
		return ok(b.Name(), "not used: %s", e.Message)
	}
	return warn(b.Name(), o.asThisUser(e.Hint), "%s; VMs are run by %s", e.Message, chosen.Name())
}

// failing is about a hypervisor where VMs cannot be run: by the one that the configuration asks for, or by the last resort.
func (o Options) failing(ctx context.Context, b backend.Backend) api.Check {
	all := o.Backends.All()
	wanted := o.Backends.Default
	if wanted == "" || wanted == api.HypervisorAuto {
		wanted = all[len(all)-1].Name()
	}
	f, err := b.Hypervisor.Features(ctx)
	switch e := api.AsError(err); {
	case err == nil:
		return ok(b.Name(), "%s; the configuration asks for %s", f.Version, wanted)
	case b.Name() == wanted:
		return fail(b.Name(), o.asThisUser(e.Hint), "%s", e.Message)
	default:
		return warn(b.Name(), o.asThisUser(e.Hint), "%s", e.Message)
	}
}
