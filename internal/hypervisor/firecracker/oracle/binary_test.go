package oracle

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// allowAll is what libseccomp makes of a filter without rules that allows what it does not know, as resources/seccomp/unimplemented.json of
// Firecracker 1.16 has it (written by seccomp_export_bpf of libseccomp 2.5.4).
var allowAll = []byte{
	0x20, 0, 0, 0, 4, 0, 0, 0, 0x15, 0, 0, 4, 0x3e, 0, 0, 0xc0,
	0x20, 0, 0, 0, 0, 0, 0, 0, 0x35, 0, 0, 1, 0, 0, 0, 0x40,
	0x15, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 6, 0, 0, 0, 0, 0, 0xff, 0x7f,
	6, 0, 0, 0, 0, 0, 0, 0,
}

// refusing is one that allows read(2) only.
var refusing = []byte{
	0x20, 0, 0, 0, 4, 0, 0, 0, 0x15, 0, 0, 4, 0x3e, 0, 0, 0xc0,
	0x20, 0, 0, 0, 0, 0, 0, 0, 0x15, 0, 1, 0, 0, 0, 0, 0,
	6, 0, 0, 0, 0, 0, 3, 0, 6, 0, 0, 0, 0, 0, 0xff, 0x7f,
	6, 0, 0, 0, 0, 0, 0, 0,
}

func join(parts ...[]byte) []byte {
	out := []byte("some code before it, at no alignment")
	for _, p := range parts {
		out = append(append(out, p...), "between"...)
	}
	return out
}

func TestFilters(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text []byte
		want seccomp
		err  error
	}{
		"release":       {join(refusing, refusing, refusing), seccomp{3, 3}, nil},
		"unimplemented": {join(allowAll, allowAll, allowAll), seccomp{3, 0}, errAllowAll},
		"one thread":    {join(refusing, allowAll, refusing), seccomp{3, 2}, errAllowAll},
		"another form":  {join([]byte("nothing of the kind")), seccomp{}, errUnknown},
		"another CPU":   {join(append(append([]byte{}, begin...), 0, 4, 0xb7, 0, 0, 0xc0)), seccomp{}, errUnknown},
		"cut short":     {join(refusing)[:30], seccomp{}, errUnknown},
	} {
		got := filters(c.text)
		if err := got.check(); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// TestReadFile looks at programs that every Debian has: they have no filters, and one needs its libraries.
func TestReadFile(t *testing.T) {
	t.Parallel()
	f, err := readFile("/bin/sh")
	if err != nil || f.static || !errors.Is(f.seccomp.check(), errUnknown) {
		t.Errorf("/bin/sh: %+v, %v", f, err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readFile(self); err != nil {
		t.Error(err)
	}
	text := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := readFile(text); err == nil {
		t.Errorf("a script is a program: %+v", f)
	}
}
