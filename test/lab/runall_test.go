package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

func TestChoose(t *testing.T) {
	t.Parallel()
	proving := slices.DeleteFunc(suites(), func(s suite) bool { return s.asked })
	without, skipped, err := choose(nil, false)
	if err != nil || len(without) == 0 || len(skipped) == 0 || len(without)+len(skipped) != len(proving) {
		t.Errorf("without firecracker: %d chosen, %d skipped of %d, %v", len(without), len(skipped), len(proving), err)
	}
	for _, s := range without {
		if s.firecracker {
			t.Errorf("%s runs without firecracker", s.name)
		}
	}
	if all, skipped, err := choose(nil, true); err != nil || len(all) != len(proving) || len(skipped) != 0 {
		t.Errorf("with firecracker: %d chosen, %v skipped, %v", len(all), skipped, err)
	}
	for _, name := range []string{"machine-qemu", "figures-qemu"} {
		if one, _, err := choose([]string{name}, false); err != nil || len(one) != 1 {
			t.Errorf("by name: %v, %v", one, err)
		}
	}
	for _, name := range []string{"machine-firecracker", "no-such-suite"} {
		if _, _, err := choose([]string{name}, false); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestPrefixer(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := &prefixer{prefix: "x: ", to: &out, lines: &sync.Mutex{}}
	for _, part := range []string{"=== CONT  A\n--- PA", "SS: A\n    --- SKIP: A/b\nlast"} {
		if _, err := p.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	p.flush()
	if got, want := out.String(), "x: --- PASS: A\nx:     --- SKIP: A/b\nx: last\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if p.passed != 1 || p.skipped != 1 {
		t.Errorf("%d passed, %d skipped", p.passed, p.skipped)
	}
}

func TestReadStatus(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "status")
	for _, c := range []struct {
		text string
		code int
		ok   bool
	}{{"", 0, false}, {"1", 0, false}, {"0\n", 0, true}, {"17\n", 17, true}, {"what\n", codeBroken, true}} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, ok := readStatus(path); code != c.code || ok != c.ok {
			t.Errorf("%q: %d, %v", c.text, code, ok)
		}
	}
}
