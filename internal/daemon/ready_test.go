package daemon

import "testing"

func TestUnitOf(t *testing.T) {
	for cgroups, want := range map[string]string{
		"0::/system.slice/bangerd.service\n":                                                     "bangerd.service",
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/bangerd.service\n":           "bangerd.service",
		"5:memory:/user.slice\n1:name=systemd:/system.slice/bangerd.service\n":                   "bangerd.service",
		"5:memory:/system.slice/other.service\n0::/user.slice/user-1000.slice/session-3.scope\n": "",
		"": "",
	} {
		if got := unitOf(cgroups); got != want {
			t.Errorf("%q: %q, want %q", cgroups, got, want)
		}
	}
	if got := unit([]string{"PATH=/bin"}); got != "" {
		t.Errorf("a command's daemon is run by %q", got)
	}
}
