package backend

import (
	"context"
	"strings"

	"banger/api"
	"banger/internal/hypervisor"
)

// Choice is a backend that can work here.
type Choice struct {
	Backend
	Features hypervisor.Features
	// Why says in a clause why it is this one.
	Why string
}

// Choose finds the backend for a new machine that is connected by net: the one that is asked for, or the first that can work. Name is
// empty for the default. The error says what is in the way, before anything has been created.
func (s Set) Choose(ctx context.Context, name string, net api.NetKind) (Choice, error) {
	why := "it was asked for"
	if name == "" && s.Default != "" {
		name, why = s.Default, "the configuration says so"
	}
	if name != "" && name != api.HypervisorAuto {
		b, err := s.Get(name)
		if err != nil {
			return Choice{}, api.Errorf(api.CodeInvalid, "hypervisor is %q: give %s or %s", name, strings.Join(s.Names(), ", "), api.HypervisorAuto)
		}
		f, err := b.serve(ctx, net)
		return Choice{Backend: b, Features: f, Why: why}, err
	}
	var obstacles []string
	for n, b := range s.all {
		f, err := b.serve(ctx, net)
		if err == nil {
			return Choice{Backend: b, Features: f, Why: whyThis(f, obstacles)}, nil
		}
		if n == len(s.all)-1 {
			return Choice{}, err
		}
		obstacles = append(obstacles, b.Name()+": "+api.AsError(err).Message)
	}
	return Choice{}, api.Errorf(api.CodeInternal, "there is no hypervisor at all")
}

// serve is Features, or why it cannot run a machine that is connected so.
func (b Backend) serve(ctx context.Context, net api.NetKind) (hypervisor.Features, error) {
	f, err := b.Hypervisor.Features(ctx)
	if err == nil && f.TapOnly && net == api.NetUser {
		err = api.Errorf(api.CodeUnsupported, "%s has no user-mode network: it connects VMs by taps only", b.Name()).WithHint("banger run --hypervisor qemu")
	}
	return f, err
}

func whyThis(f hypervisor.Features, obstacles []string) string {
	if len(obstacles) == 0 {
		return "the best that works here, with " + f.Accel
	}
	return strings.Join(obstacles, "; ")
}
