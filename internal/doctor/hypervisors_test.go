package doctor

import (
	"io/fs"
	"maps"
	"strings"
	"testing"
	"testing/fstest"

	"banger/api"
	"banger/internal/backend"
	"banger/internal/hypervisor"
)

// called is a hypervisor that only says what it can do, under a name.
type called struct {
	vmm
	name string
}

func (c called) Name() string { return c.name }

// both is a daemon's choice.
func both(asked string, firecracker, qemu vmm) backend.Set {
	return backend.NewSet(asked, backend.Backend{Hypervisor: called{firecracker, "firecracker"}}, backend.Backend{Hypervisor: called{qemu, "qemu"}})
}

// What the hypervisors say, as their own tests have it.
func fast() vmm {
	return vmm{features: hypervisor.Features{Accel: "kvm", AccelReason: "a probe guest ran to its end under Firecracker on /dev/kvm", Version: "1.16.1"}}
}

func slow(accel, reason, hint string) vmm {
	return vmm{features: hypervisor.Features{Accel: accel, AccelReason: reason, AccelHint: hint, Version: "7.2.22"}}
}

func cannot(code api.Code, what, hint string) vmm {
	return vmm{err: api.Errorf(code, "%s", what).WithHint("%s", hint)}
}

// TestHypervisors: for each thing that can be wrong with a host, the verdict, the command that mends it, and whether VMs can be run.
func TestHypervisors(t *testing.T) {
	t.Parallel()
	kvm := slow("kvm", "a probe guest ran to its end on /dev/kvm", "")
	const install, nested = "curl -fsSL https://github.com/firecracker-microvm/firecracker/releases", "switch on nested virtualisation"
	for name, c := range map[string]struct {
		asked             string
		firecracker, qemu vmm
		usable            bool
		want              []api.Check // Detail and Hint are parts of what is to be said
	}{
		"all is well": {firecracker: fast(), qemu: kvm, usable: true, want: []api.Check{
			{Name: "firecracker", Verdict: "ok", Detail: "1.16.1"}, {Name: "qemu", Verdict: "ok", Detail: "7.2.22"},
			{Name: "acceleration", Verdict: "ok", Detail: "kvm: a probe guest ran to its end under Firecracker"},
		}},
		"no KVM": {
			firecracker: cannot(api.CodeUnsupported, "Firecracker needs KVM: there is no /dev/kvm", "sudo modprobe kvm_amd"),
			qemu:        slow("tcg", "there is no /dev/kvm", "sudo modprobe kvm_amd"), usable: true,
			want: []api.Check{
				{Name: "firecracker", Verdict: "ok", Detail: "not used: Firecracker needs KVM"}, {Name: "qemu", Verdict: "ok"},
				{Name: "acceleration", Verdict: "warn", Detail: "software emulation (tcg): there is no /dev/kvm", Hint: "modprobe kvm_amd"},
			}},
		"KVM lies": {
			firecracker: cannot(api.CodeUnsupported, "Firecracker needs KVM, and a probe guest did not run on /dev/kvm (KVM_EXIT_INTERNAL_ERROR)", nested),
			qemu:        slow("tcg", "/dev/kvm is there, but a probe guest did not run on it (KVM internal error. Suberror: 1)", nested), usable: true,
			want: []api.Check{
				{Name: "firecracker", Verdict: "ok", Detail: "not used: Firecracker needs KVM, and a probe guest did not run"},
				{Name: "acceleration", Verdict: "warn", Detail: "a probe guest did not run on it", Hint: nested},
			}},
		"KVM without Firecracker": {
			firecracker: cannot(api.CodeMissing, "firecracker is not installed", install), qemu: kvm, usable: true,
			want: []api.Check{
				{Name: "firecracker", Verdict: "warn", Detail: "firecracker is not installed; VMs are run by qemu", Hint: install},
				{Name: "acceleration", Verdict: "ok", Detail: "kvm"},
			}},
		"wrong version": {
			firecracker: cannot(api.CodeUnsupported, "/usr/bin/firecracker is Firecracker 1.15.0; 1.16 is the first", install), qemu: kvm, usable: true,
			want: []api.Check{{Name: "firecracker", Verdict: "warn", Detail: "1.15.0", Hint: install}}},
		"no seccomp filters": {
			firecracker: cannot(api.CodeUnsupported, "/usr/bin/firecracker has no seccomp filters", install), qemu: kvm, usable: true,
			want: []api.Check{{Name: "firecracker", Verdict: "warn", Detail: "no seccomp filters", Hint: install}}},
		"filters that cannot be seen": {
			firecracker: vmm{features: hypervisor.Features{Accel: "kvm", Version: "1.17.0", Caveat: "it cannot be seen whether it has seccomp filters"}}, qemu: kvm, usable: true,
			want: []api.Check{{Name: "firecracker", Verdict: "warn", Detail: "1.17.0; it cannot be seen"}}},
		"dynamic": {
			firecracker: cannot(api.CodeUnsupported, "/usr/bin/firecracker needs libraries", install), qemu: kvm, usable: true,
			want: []api.Check{{Name: "firecracker", Verdict: "warn", Detail: "needs libraries", Hint: install}}},
		"no dm": {
			firecracker: cannot(api.CodeUnsupported, "this kernel has no device-mapper", "sudo modprobe dm-snapshot"), qemu: kvm, usable: true,
			want: []api.Check{{Name: "firecracker", Verdict: "warn", Detail: "no device-mapper; VMs are run by qemu", Hint: "modprobe dm-snapshot"}}},
		"not root": {
			firecracker: cannot(api.CodeDenied, "a jail for a VMM needs root", "sudo banger system install"), qemu: kvm, usable: true,
			want: []api.Check{{Name: "firecracker", Verdict: "warn", Detail: "needs root; VMs are run by qemu", Hint: "banger system install"}}},
		"Firecracker alone": {
			firecracker: fast(), qemu: cannot(api.CodeMissing, "cannot find the program qemu-system-x86_64", "sudo apt-get install qemu-system-x86"), usable: true,
			want: []api.Check{{Name: "qemu", Verdict: "warn", Detail: "VMs are run by firecracker", Hint: "apt-get install qemu-system-x86"}}},
		"none": {
			firecracker: cannot(api.CodeMissing, "firecracker is not installed", install),
			qemu:        cannot(api.CodeMissing, "cannot find the program qemu-system-x86_64", "sudo apt-get install qemu-system-x86"),
			want: []api.Check{
				{Name: "firecracker", Verdict: "warn", Hint: install}, {Name: "qemu", Verdict: "fail", Hint: "apt-get install qemu-system-x86"},
			}},
		"asked for and not there": {asked: "firecracker",
			firecracker: cannot(api.CodeMissing, "firecracker is not installed", install), qemu: kvm,
			want: []api.Check{
				{Name: "firecracker", Verdict: "fail", Detail: "firecracker is not installed", Hint: install},
				{Name: "qemu", Verdict: "ok", Detail: "the configuration asks for firecracker"},
			}},
		"asked for QEMU": {asked: "qemu", firecracker: fast(), qemu: kvm, usable: true,
			want: []api.Check{{Name: "acceleration", Verdict: "ok", Detail: "kvm: a probe guest ran to its end on /dev/kvm"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := healthy()
			o.Backends = both(c.asked, c.firecracker, c.qemu)
			expect(t, Run(t.Context(), o), c.usable, c.want...)
			if name != "not root" {
				return
			}
			o = user(o)
			expect(t, Run(t.Context(), o), true, api.Check{Name: "firecracker", Verdict: "warn", Hint: "sudo banger system install"})
		})
	}
}

// TestNoTun: a root daemon connects VMs by taps, and can do without.
func TestNoTun(t *testing.T) {
	t.Parallel()
	o := healthy()
	files := maps.Clone(o.Machine.Files.(fstest.MapFS))
	delete(files, "dev/net/tun")
	o.Machine.Files = files
	expect(t, Run(t.Context(), o), true, api.Check{Name: "tun", Verdict: "warn", Detail: "needed for --net bridge", Hint: "modprobe tun"})
	files["dev/net/tun"] = &fstest.MapFile{Mode: fs.ModeDevice | fs.ModeCharDevice}
	expect(t, Run(t.Context(), o), true, api.Check{Name: "tun", Verdict: "ok"})
}

// expect looks for checks by name. A check that is not said to have a hint has none.
func expect(t *testing.T, checks []api.Check, usable bool, want ...api.Check) {
	t.Helper()
	if Usable(checks) != usable {
		t.Errorf("usable: %v, want %v", !usable, usable)
	}
	for _, w := range want {
		found := false
		for _, c := range checks {
			if c.Name != w.Name {
				continue
			}
			found = true
			if c.Verdict != w.Verdict || !strings.Contains(c.Detail, w.Detail) || !strings.Contains(c.Hint, w.Hint) || (c.Hint == "") != (w.Hint == "") {
				t.Errorf("%+v, want %+v", c, w)
			}
		}
		if !found {
			t.Errorf("nothing is said of %s:\n%s", w.Name, text(checks))
		}
	}
}
