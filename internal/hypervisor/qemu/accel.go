package qemu

import (
	"context"
	"fmt"

	"banger/internal/host"
	"banger/internal/hypervisor/kvm"
)

// decide fills in the accelerator, with the reason and what would mend a "tcg". Nothing is
// believed of /dev/kvm but that an ordinary guest ran to its end on it.
func (o *oracle) decide(ctx context.Context, f *facts) error {
	f.KVMGroup = o.kvm.Group()
	switch o.asked {
	case "kvm", "tcg":
		f.Accel, f.Reason = o.asked, "the configuration says so"
		return nil
	}
	reason, hint := f.Obstacle, f.ObstacleHint
	if reason == "" {
		switch err := o.probe(ctx, f); {
		case err == nil:
			f.Accel, f.Reason = "kvm", "a probe guest ran to its end on /dev/kvm"
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		default:
			reason = fmt.Sprintf("/dev/kvm is there, but a probe guest did not run on it (%v)", err)
			hint = kvm.NestedHint
		}
	}
	f.Accel, f.Reason, f.Hint = "tcg", reason, hint
	return nil
}

// probe runs the probe guest on KVM as a VM's QEMU would be run.
func (o *oracle) probe(ctx context.Context, f *facts) error {
	return o.kvm.Probe(ctx, o.host, probing(f, "-accel", "kvm", "-cpu", "host"), fatal)
}

// fatal is what QEMU says before it waits for nothing.
const fatal = "KVM internal error"

func probing(f *facts, accel ...string) host.Command {
	return host.Command{Path: f.Binary, Args: append([]string{
		"-nodefaults", "-no-user-config", "-display", "none", "-sandbox", sandbox,
		"-machine", "microvm", "-m", "32M", "-kernel", "/proc/self/fd/3", "-serial", "stdio",
		"-device", "isa-debug-exit,iobase=0xf4,iosize=1",
	}, accel...)}
}
