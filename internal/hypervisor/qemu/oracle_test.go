package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/host/fake"
	"banger/internal/hypervisor/kvm"
)

// pretend is a machine with a QEMU that answers as the real one does.
func pretend(t *testing.T, probe func() (string, error)) *fake.Host {
	t.Helper()
	h := fake.New()
	h.Act("qemu-system-x86_64", func(_ context.Context, c host.Command) error {
		switch {
		case slices.Contains(c.Args, "--version"):
			fmt.Fprintln(c.Stdout, "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright")
		case slices.Contains(c.Args, "microvm,help"):
			fmt.Fprintln(c.Stdout, "microvm-machine options:\n  acpi=<OnOffAuto>       - Enable ACPI\n  pit=<OnOffAuto>        - Enable i8254 PIT")
		default:
			said, err := probe()
			fmt.Fprint(c.Stdout, said)
			return err
		}
		return nil
	})
	return h
}

func kvmWith(t *testing.T, flags string, mode os.FileMode) *kvm.Device {
	t.Helper()
	d, _ := kvmAt(t, flags, mode)
	return d
}

func kvmAt(t *testing.T, flags string, mode os.FileMode) (d *kvm.Device, device string) {
	t.Helper()
	dir := t.TempDir()
	cpuinfo, path := filepath.Join(dir, "cpuinfo"), filepath.Join(dir, "kvm")
	if err := os.WriteFile(cpuinfo, []byte("processor\t: 0\nflags\t\t: "+flags+"\nbugs\t\t:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if mode != 0 {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	return kvm.At(cpuinfo, path), path
}

func asking(t *testing.T, h *fake.Host, k *kvm.Device, state, accel string) *Hypervisor {
	t.Helper()
	q := New(Options{Host: h, Paths: config.Paths{State: state}, Log: slog.New(slog.DiscardHandler), Accel: accel})
	q.oracle.kvm = k
	q.oracle.measure = func() int64 { return 2_596_096 }
	return q
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	lies := func() (string, error) {
		return "KVM internal error. Suberror: 1\nextra data[0]: 1\n", errors.New("killed")
	}
	runs := func() (string, error) { return kvm.Words + "\n", errors.New("exit status 1") }
	mute := func() (string, error) { return "", context.DeadlineExceeded }
	hung := false
	second := func() (string, error) {
		if !hung {
			hung = true
			return mute()
		}
		return runs()
	}
	for name, c := range map[string]struct {
		flags, accel string
		mode         os.FileMode
		probe        func() (string, error)
		want         string
		reason, hint string
		probes       int
	}{
		"works":         {flags: "fpu svm", mode: 0o666, probe: runs, want: "kvm", reason: "ran to its end", probes: 1},
		"lies":          {flags: "fpu vmx", mode: 0o666, probe: lies, want: "tcg", reason: "Suberror: 1", hint: "nested", probes: 1},
		"hangs":         {flags: "fpu vmx", mode: 0o666, probe: mute, want: "tcg", reason: "had not ended", hint: "nested", probes: 2},
		"hangs once":    {flags: "fpu svm", mode: 0o666, probe: second, want: "kvm", reason: "ran to its end", probes: 2},
		"no flags":      {flags: "fpu", mode: 0o666, probe: runs, want: "tcg", reason: "neither vmx nor svm", hint: "firmware"},
		"guest no flag": {flags: "fpu hypervisor", mode: 0o666, probe: runs, want: "tcg", reason: "cannot run an ordinary guest", hint: "nested"},
		"no device":     {flags: "svm", probe: runs, want: "tcg", reason: "no /dev/kvm", hint: "sudo modprobe kvm_amd"},
		"forced":        {flags: "svm", mode: 0o666, accel: "tcg", probe: runs, want: "tcg", reason: "configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			state, probes := t.TempDir(), 0
			h := pretend(t, func() (string, error) { probes++; return c.probe() })
			k := kvmWith(t, c.flags, c.mode)
			q := asking(t, h, k, state, c.accel)
			f, err := q.Features(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if f.Accel != c.want || !strings.Contains(f.AccelReason, c.reason) || !strings.Contains(f.AccelHint, c.hint) || (c.hint == "") != (f.AccelHint == "") {
				t.Errorf("%+v", f)
			}
			if f.Version != "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)" || f.MaxCPUs < 2 {
				t.Errorf("%+v", f)
			}
			// Neither this daemon nor the next one probes again.
			before := h.Transcript()
			for _, again := range []*Hypervisor{q, asking(t, h, k, state, c.accel)} {
				if g, err := again.Features(t.Context()); err != nil || g != f {
					t.Errorf("again: %+v, %v", g, err)
				}
			}
			if probes != c.probes || h.Transcript() != before {
				t.Errorf("%d probes, want %d; run since:\n%s", probes, c.probes, strings.TrimPrefix(h.Transcript(), before))
			}
		})
	}
}

func TestVerdictIsVoidWhenThingsChange(t *testing.T) {
	t.Parallel()
	state, probes := t.TempDir(), 0
	h := pretend(t, func() (string, error) { probes++; return kvm.Words, nil })
	k, device := kvmAt(t, "vmx", 0o666)
	ask := func() {
		if _, err := asking(t, h, k, state, "").Features(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	if err := os.Chmod(device, 0o606); err != nil {
		t.Fatal(err)
	}
	ask()
	if probes != 2 {
		t.Errorf("%d probes after the device changed, want 2", probes)
	}
	file := config.Paths{State: state}.AccelVerdict()
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	ask()
	b, err := os.ReadFile(file)
	if err != nil || probes != 3 {
		t.Errorf("%d probes after the file was torn, want 3; %v", probes, err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(b), h.BootID(), "another boot", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	ask()
	if probes != 4 {
		t.Errorf("%d probes after a boot, want 4", probes)
	}
}

func TestMissingQEMU(t *testing.T) {
	t.Parallel()
	h := fake.New()
	h.Remove("qemu-system-x86_64", "sudo apt-get install qemu-system-x86")
	_, err := asking(t, h, kvmWith(t, "", 0), t.TempDir(), "").Features(t.Context())
	if e := api.AsError(err); e == nil || e.Code != api.CodeMissing || e.Hint == "" {
		t.Errorf("error: %+v", e)
	}
}

// The probe guest itself must run to its end wherever an ordinary guest does.
func TestProbeGuestRunsUnderEmulation(t *testing.T) {
	t.Parallel()
	q := newHypervisor(t)
	path, err := q.host.LookPath(q.binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := kvm.Run(bounded(t, time.Minute), q.host, probing(&facts{Binary: path}, "-accel", "tcg", "-cpu", "max"), fatal); err != nil {
		t.Error(err)
	}
}

// A host whose CPU has no virtualisation cannot have a KVM that runs an ordinary guest,
// whatever its /dev/kvm says: the probe guest must not be fooled by it.
func TestProbeGuestIsNotFooled(t *testing.T) {
	t.Parallel()
	q := newHypervisor(t)
	if reason, _ := kvm.New().Obstacle(); !strings.Contains(reason, "the /dev/kvm that is there") {
		t.Skip("this host has no /dev/kvm that lies")
	}
	path, err := q.host.LookPath(q.binary)
	if err != nil {
		t.Fatal(err)
	}
	for _, cpu := range []string{"host", "kvm64"} {
		err := kvm.Run(bounded(t, time.Minute), q.host, probing(&facts{Binary: path}, "-accel", "kvm", "-cpu", cpu), fatal)
		t.Logf("-cpu %s: %v", cpu, err)
		if err == nil {
			t.Errorf("the probe guest ran on a KVM without virtualisation (-cpu %s)", cpu)
		}
	}
	f, err := q.Features(bounded(t, time.Minute))
	if err != nil || f.Accel != "tcg" || f.AccelHint == "" {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestMeasureTSC(t *testing.T) {
	t.Parallel()
	a, b := measureTSC(), measureTSC()
	if a == 0 {
		t.Skip("no counter here")
	}
	if d := max(a, b) - min(a, b); d > a/1000 {
		t.Errorf("%d and %d kHz differ by more than 1000 ppm", a, b)
	}
	t.Logf("%d kHz, %d kHz", a, b)
}

// TestAcceleration: the verdict on this very machine. In the laboratory, whose KVM works, BANGER_TEST_ACCEL is kvm.
func TestAcceleration(t *testing.T) {
	t.Parallel()
	h := newHypervisor(t)
	f, err := h.oracle.ask(bounded(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %s", f.Accel, f.Reason)
	if want := os.Getenv("BANGER_TEST_ACCEL"); want != "" && f.Accel != want {
		t.Errorf("accelerator: got %s, want %s: %s", f.Accel, want, f.Reason)
	}
	if f.Accel == "kvm" && f.Obstacle != "" {
		t.Errorf("kvm, though %s", f.Obstacle)
	}
}
