package disktest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"banger/api"
	"banger/internal/disk"
)

// layers makes a device with a chain of tops d0 … dn over a base, each with a MiB of its own and one over its predecessor's.
func (s suite) layers(t *testing.T, base string, n int) (name string, f *os.File, tops []string) {
	t.Helper()
	tops = []string{s.create(t, disk.Spec{Path: s.path("d0"), Base: base, SizeBytes: 64 * mib})}
	name, f = s.attach(t, tops[0], false)
	for i := range n + 1 {
		if i > 0 {
			tops = append(tops, s.over(t, tops[i-1], fmt.Sprint("d", i)))
			if err := s.attacher.Switch(t.Context(), name, tops[i]); err != nil {
				t.Fatal(err)
			}
		}
		writeBytes(t, f, byte('a'+i), int64(16+i)*mib, 2*mib)
	}
	return name, f, tops
}

// wantLayers checks what layers has written: of each but the last, one MiB shows.
func wantLayers(t *testing.T, f *os.File, n int) {
	t.Helper()
	for i := range n {
		wantBytes(t, f, byte('a'+i), int64(16+i)*mib, mib)
	}
	wantBytes(t, f, byte('a'+n), int64(16+n)*mib, 2*mib)
}

func flatten(t *testing.T, s suite) {
	base := s.base(t)
	for what, to := range map[string]func(tops []string) string{
		"layer":     func(tops []string) string { return tops[1] },
		"neighbour": func(tops []string) string { return tops[2] },
		"image":     func([]string) string { return base },
		"nothing":   func([]string) string { return "" },
	} {
		t.Run(what, func(t *testing.T) {
			s := s.in(t)
			name, f, tops := s.layers(t, base, 3)
			below := to(tops)
			look := func(f *os.File) {
				wantLayers(t, f, 3)
				wantBytes(t, f, 'A', 0, mib)
				wantBytes(t, f, 'B', 15*mib, mib)
				wantBytes(t, f, 0, mib, mib)
			}
			if err := s.attacher.Flatten(t.Context(), name, s.path("none")); api.CodeOf(err) != api.CodeNotFound {
				t.Fatalf("down to a file that is not there: %v", err)
			}
			for range 2 {
				if err := s.attacher.Flatten(t.Context(), name, below); err != nil {
					t.Fatal(err)
				}
				look(f)
				writeBytes(t, f, 'z', 40*mib, mib)
			}
			if err := errors.Join(f.Close(), s.attacher.Detach(t.Context(), name)); err != nil {
				t.Fatal(err)
			}
			// What lay between is not needed any more.
			for _, p := range tops[:3] {
				if p == below {
					break
				}
				if below == base || below == "" {
					if err := os.Remove(p); err != nil {
						t.Fatal(err)
					}
				}
			}
			s.with(t, tops[3], false, func(f *os.File) {
				look(f)
				wantBytes(t, f, 'z', 40*mib, mib)
				writeBytes(t, f, 'y', 50*mib, 4*mib)
				wantBytes(t, f, 'y', 50*mib, 4*mib)
				look(f)
			})
		})
	}
}

func flattenUnderLoad(t *testing.T, s suite) {
	base := s.base(t)
	name, f, tops := s.layers(t, base, 4)
	l := startLoad(f)
	l.more(t, 30)
	begin := time.Now()
	if err := s.attacher.Flatten(t.Context(), name, base); err != nil {
		t.Fatal(err)
	}
	t.Logf("took %v", time.Since(begin))
	l.more(t, 30)
	next := s.over(t, tops[4], "d5")
	if err := s.attacher.Switch(t.Context(), name, next); err != nil {
		t.Fatal(err)
	}
	l.more(t, 30)
	if err := s.attacher.Flatten(t.Context(), name, base); err != nil {
		t.Fatal(err)
	}
	l.more(t, 30)
	last := l.end(t)
	wantRecords(t, f, last, last)
	wantLayers(t, f, 4)
	if err := errors.Join(f.Close(), s.attacher.Detach(t.Context(), name)); err != nil {
		t.Fatal(err)
	}
	s.with(t, next, true, func(f *os.File) {
		wantRecords(t, f, last, last)
		wantLayers(t, f, 4)
	})
}

func flattenDisturbed(t *testing.T, s suite) {
	base := s.base(t)
	name, f, tops := s.layers(t, base, 2)
	writeBytes(t, f, 'w', 24*mib, 16*mib)
	next := s.over(t, tops[2], "d3")
	if err := s.attacher.Switch(t.Context(), name, next); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.attacher.Flatten(context.Background(), name, base) }()
	time.Sleep(5 * time.Millisecond) // into the midst of it, if we are lucky: either end is right
	last := s.over(t, next, "d4")
	if err := s.attacher.Switch(t.Context(), name, last); err != nil {
		t.Fatal(err)
	}
	err := <-ended
	t.Logf("flatten: %v", err)
	if err != nil && api.CodeOf(err) != api.CodeCancelled {
		t.Errorf("it ended with %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.attacher.Flatten(ctx, name, base); err == nil {
		t.Error("flattened without time")
	}
	wantBytes(t, f, 'w', 24*mib, 16*mib)
	wantLayers(t, f, 2)
	if err := errors.Join(f.Close(), s.attacher.Detach(t.Context(), name)); err != nil {
		t.Fatal(err)
	}
	if n := used(t, next); err != nil && n > 2*mib {
		t.Errorf("what was copied in vain takes %d KiB", n>>10)
	}
	s.with(t, last, true, func(f *os.File) { wantBytes(t, f, 'w', 24*mib, 16*mib) })
}
