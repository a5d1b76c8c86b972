package backend

import (
	"context"
	"strings"
	"testing"

	"banger/api"
	"banger/internal/hypervisor"
)

// says is a hypervisor that only says what it can do.
type says struct {
	hypervisor.Hypervisor
	name     string
	features hypervisor.Features
	err      error
}

func (s says) Name() string                                          { return s.name }
func (s says) Features(context.Context) (hypervisor.Features, error) { return s.features, s.err }

func TestChoose(t *testing.T) {
	t.Parallel()
	fast := says{name: "firecracker", features: hypervisor.Features{Accel: "kvm", TapOnly: true}}
	slow := says{name: "qemu", features: hypervisor.Features{Accel: "tcg"}}
	broken := func(s says) says {
		s.err = api.Errorf(api.CodeMissing, "%s is not there", s.name).WithHint("install %s", s.name)
		return s
	}
	for name, c := range map[string]struct {
		standard    string
		first, last says
		asked       string
		net         api.NetKind
		want, why   string
		code        api.Code
	}{
		"the first":             {first: fast, last: slow, want: "firecracker", why: "with kvm"},
		"auto":                  {standard: "qemu", first: fast, last: slow, asked: "auto", want: "firecracker", why: "with kvm"},
		"configured":            {standard: "qemu", first: fast, last: slow, want: "qemu", why: "configuration"},
		"configured auto":       {standard: "auto", first: broken(fast), last: slow, want: "qemu", why: "firecracker is not there"},
		"asked for":             {standard: "firecracker", first: fast, last: slow, asked: "qemu", want: "qemu", why: "asked for"},
		"the first is broken":   {first: broken(fast), last: slow, want: "qemu", why: "firecracker is not there"},
		"asked for, and broken": {first: broken(fast), last: slow, asked: "firecracker", code: api.CodeMissing},
		"configured, broken":    {standard: "firecracker", first: broken(fast), last: slow, code: api.CodeMissing},
		"all are broken":        {first: broken(fast), last: broken(slow), code: api.CodeMissing},
		"unknown":               {first: fast, last: slow, asked: "xen", code: api.CodeInvalid},
		"taps only":             {first: fast, last: slow, net: api.NetUser, want: "qemu", why: "taps only"},
		"taps are enough":       {first: fast, last: slow, net: api.NetNone, want: "firecracker", why: "with kvm"},
		"asked for, taps only":  {first: fast, last: slow, asked: "firecracker", net: api.NetUser, code: api.CodeUnsupported},
	} {
		set := NewSet(c.standard, Backend{Hypervisor: c.first}, Backend{Hypervisor: c.last})
		got, err := set.Choose(t.Context(), c.asked, c.net)
		if api.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %q", name, err, c.code)
			continue
		}
		if c.code == "" && (got.Name() != c.want || !strings.Contains(got.Why, c.why)) {
			t.Errorf("%s: %s, since %s; want %s, %s", name, got.Name(), got.Why, c.want, c.why)
		}
	}
	if _, err := NewSet("").Choose(t.Context(), "", ""); err == nil {
		t.Error("a daemon without any has chosen one")
	}
}
