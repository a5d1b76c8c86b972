package doctor

import (
	"context"

	"banger/api"
)

// hypervisors: nothing works without one; emulation works, but slower. One that is passed over for another is no failure.
func (o Options) hypervisors(ctx context.Context) []api.Check {
	chosen, err := o.Backends.Choose(ctx, "")
	var checks []api.Check
	for n, b := range o.Backends.All() {
		f, problem := b.Hypervisor.Features(ctx)
		switch e := api.AsError(problem); {
		case problem == nil:
			checks = append(checks, ok(b.Name(), "%s", f.Version))
		case err == nil:
			checks = append(checks, warn(b.Name(), o.asThisUser(e.Hint), "%s; VMs are run by %s", e.Message, chosen.Name()))
		case n == len(o.Backends.All())-1 || b.Name() == o.Backends.Default:
			checks = append(checks, fail(b.Name(), o.asThisUser(e.Hint), "%s", e.Message))
		default:
			checks = append(checks, warn(b.Name(), o.asThisUser(e.Hint), "%s", e.Message))
		}
	}
	if err != nil {
		return checks
	}
	if f := chosen.Features; f.Accel == "tcg" {
		return append(checks, warn("acceleration", o.asThisUser(f.AccelHint), "software emulation (tcg): %s", f.AccelReason))
	}
	return append(checks, ok("acceleration", "%s: %s", chosen.Features.Accel, chosen.Features.AccelReason))
}
