package oracle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/internal/host/local"
	"banger/internal/hypervisor/kvm"
	"banger/internal/loud"
)

func TestVerdict(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change        func(*machine)
		code          api.Code
		problem, hint string
		caveat        string
		probes        bool
	}{
		"works":           {change: func(*machine) {}, probes: true},
		"no KVM":          {change: func(m *machine) { m.device = false }, code: api.CodeUnsupported, problem: "there is no /dev/kvm", hint: "sudo modprobe kvm_amd"},
		"no flags":        {change: func(m *machine) { m.flags = "fpu" }, code: api.CodeUnsupported, problem: "neither vmx nor svm", hint: "firmware"},
		"not installed":   {change: func(m *machine) { m.binary = nil }, code: api.CodeMissing, problem: "firecracker is not installed", hint: "releases"},
		"no jailer":       {change: func(m *machine) { m.jailer = "" }, code: api.CodeMissing, problem: "jailer is not installed", hint: "releases"},
		"too old":         {change: func(m *machine) { m.version, m.jailer = "1.15.2", "1.15.2" }, code: api.CodeUnsupported, problem: "is Firecracker 1.15.2; 1.16 is the first", hint: "releases"},
		"another jailer":  {change: func(m *machine) { m.jailer = "1.16.0" }, code: api.CodeUnsupported, problem: "is of version 1.16.0", hint: "releases"},
		"newer":           {change: func(m *machine) { m.version, m.jailer = "2.0.0", "2.0.0" }, probes: true},
		"no version":      {change: func(m *machine) { m.version = "" }, code: api.CodeUnsupported, problem: "tells no version", hint: "releases"},
		"dynamic":         {change: func(m *machine) { m.binary = program(false, join(refusing)) }, code: api.CodeUnsupported, problem: "needs libraries", hint: "releases"},
		"no filters":      {change: func(m *machine) { m.binary = program(true, join(allowAll, allowAll, allowAll)) }, code: api.CodeUnsupported, problem: "no seccomp filters", hint: "releases"},
		"unknown filters": {change: func(m *machine) { m.binary = program(true, nil) }, caveat: "it cannot be seen whether it has seccomp filters", probes: true},
		"not root":        {change: func(m *machine) { m.jail = api.Errorf(api.CodeDenied, "a jail needs root") }, code: api.CodeDenied, problem: "needs root"},
		"no dm":           {change: func(m *machine) { m.attach = api.Errorf(api.CodeUnsupported, "no device-mapper") }, code: api.CodeUnsupported, problem: "no device-mapper"},
		"KVM lies": {change: func(m *machine) {
			m.probe = func() (string, error) {
				return "Running Firecracker\nReceived KVM_EXIT_INTERNAL_ERROR signal\n", errors.New("exit status 1")
			}
		}, code: api.CodeUnsupported, problem: "KVM_EXIT_INTERNAL_ERROR", hint: "nested", probes: true},
		"KVM hangs": {change: func(m *machine) {
			m.probe = func() (string, error) { return "", context.DeadlineExceeded }
		}, code: api.CodeUnsupported, problem: "had not ended", hint: "nested", probes: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := good()
			c.change(&m)
			o, h := m.oracle(t)
			f, err := o.Ask(t.Context())
			switch e := api.AsError(err); {
			case c.code == "":
				if err != nil || f.Version != m.version || (f.Caveat == "") != (c.caveat == "") || !strings.Contains(f.Caveat, c.caveat) || !strings.HasPrefix(f.HostCPU, "Test CPU") {
					t.Fatalf("%+v, %v", f, err)
				}
			case e == nil || e.Code != c.code || !strings.Contains(e.Message, c.problem) || !strings.Contains(e.Hint, c.hint):
				t.Fatalf("%+v, want %s %q -> %q", e, c.code, c.problem, c.hint)
			}
			if probed := strings.Contains(h.Transcript(), "--no-api"); probed != c.probes {
				t.Errorf("probed: %v; run:\n%s", probed, h.Transcript())
			}
			// Neither this daemon nor the next one runs anything again.
			before := h.Transcript()
			for _, again := range []*Oracle{o, New(o.o)} {
				if g, err2 := again.Ask(t.Context()); fmt.Sprint(g, err2) != fmt.Sprint(f, err) {
					t.Errorf("again: %+v, %v", g, err2)
				}
			}
			if h.Transcript() != before {
				t.Errorf("run again:\n%s", strings.TrimPrefix(h.Transcript(), before))
			}
		})
	}
}

// TestVerdictIsVoidWhenThingsChange: another program, and a right that was taken, count at once.
func TestVerdictIsVoidWhenThingsChange(t *testing.T) {
	t.Parallel()
	m := good()
	m.binary = program(true, join(allowAll))
	o, _ := m.oracle(t)
	if _, err := o.Ask(t.Context()); err == nil {
		t.Fatal("it has no filters")
	}
	if err := os.WriteFile(o.o.Binary, program(true, join(refusing, refusing)), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := o.Ask(t.Context()); err != nil {
		t.Errorf("%+v, %v", f, err)
	}
	denied := api.Errorf(api.CodeDenied, "not now")
	o.o.CanAttach = func() error { return denied }
	if _, err := o.Ask(t.Context()); !errors.Is(err, denied) {
		t.Error(err)
	}
	if err := os.WriteFile(o.o.File, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	next := New(o.o)
	next.o.CanAttach = nil
	if f, err := next.Ask(t.Context()); err != nil {
		t.Errorf("after the file was torn: %+v, %v", f, err)
	}
}

func TestBeside(t *testing.T) {
	t.Parallel()
	for binary, want := range map[string]string{
		"/opt/fc/firecracker":              "/opt/fc/jailer",
		"/opt/firecracker-v1.16.1-x86_64":  "/opt/jailer-v1.16.1-x86_64",
		"/opt/firecracker/bin/firecracker": "/opt/firecracker/bin/jailer",
	} {
		if got := beside(binary); got != want {
			t.Errorf("beside %s: %s, want %s", binary, got, want)
		}
	}
}

// TestThisHost asks a real Firecracker about a real KVM: in the laboratory, where both are.
func TestThisHost(t *testing.T) {
	device := kvm.New()
	if reason, _ := device.Obstacle(); reason != "" {
		loud.SkipOutsideLab(t, "%s", reason)
	}
	h := local.New()
	if _, err := h.LookPath("firecracker"); err != nil {
		loud.SkipOutsideLab(t, "%v", err)
	}
	if err := h.CanJail("", ""); err != nil {
		loud.SkipOutsideLab(t, "%v", err)
	}
	begin := time.Now()
	f, err := New(Options{Host: h, KVM: device, File: filepath.Join(t.TempDir(), "firecracker.json")}).Ask(t.Context())
	if err != nil || f.Caveat != "" {
		t.Fatalf("%+v, %v", f, err)
	}
	t.Logf("%+v, found in %s", f, time.Since(begin))
}
