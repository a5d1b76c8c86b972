package qemu

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"banger/internal/hypervisor"
)

// template boots a machine and freezes it.
func template(t testing.TB, h *Hypervisor, m hypervisor.Machine) (hypervisor.Instance, hypervisor.Frozen) {
	t.Helper()
	i := startMachine(t, h, m)
	awaitAgent(t, i)
	// As a daemon does before it makes a template: the guest's port is free.
	i.(*instance).guest.Close()
	dir := t.TempDir()
	above := map[string]string{}
	for _, d := range m.Drives {
		if !d.ReadOnly {
			above[d.Serial] = layer(t, d, d.Path+".after", m.UID).Path
		}
	}
	if _, err := i.Freeze(bounded(t, time.Minute), hypervisor.Freeze{Dir: dir, Whole: true, Overlays: above, Resume: true}); err != nil {
		t.Fatal(err)
	}
	return i, hypervisor.Frozen{Device: filepath.Join(dir, hypervisor.FrozenDevice), Memory: filepath.Join(dir, hypervisor.FrozenMemory)}
}

// cloneOf is a machine on layers over m's drives.
func cloneOf(t testing.TB, m hypervisor.Machine) hypervisor.Machine {
	t.Helper()
	top := theLab.Place(t, &m)
	m.Drives = slices.Clone(m.Drives)
	for n, d := range m.Drives {
		if !d.ReadOnly {
			m.Drives[n] = layer(t, d, filepath.Join(top, d.Serial), m.UID)
		}
	}
	return m
}

func thawMachine(t testing.TB, h *Hypervisor, m hypervisor.Machine, f hypervisor.Frozen) hypervisor.Instance {
	t.Helper()
	i, err := h.Thaw(bounded(t, time.Minute), m, f, func(hypervisor.Handles) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Kill(bounded(t, time.Minute)) })
	return i
}

// stages collects how long each stage took.
type stages struct {
	names []string
	all   map[string][]time.Duration
	last  time.Time
}

func (s *stages) begin() { s.last = time.Now() }

func (s *stages) end(name string) {
	if s.all == nil {
		s.all = map[string][]time.Duration{}
	}
	if s.all[name] == nil {
		s.names = append(s.names, name)
	}
	now := time.Now()
	s.all[name] = append(s.all[name], now.Sub(s.last))
	s.last = now
}

func (s *stages) add(name string, d time.Duration) {
	s.last = time.Now().Add(-d)
	s.end(name)
}

func (s *stages) report(b *testing.B) {
	for _, n := range s.names {
		d := s.all[n]
		slices.Sort(d)
		b.ReportMetric(float64(d[len(d)/2].Microseconds())/1000, n+"-ms")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkThaw measures the stages of a thaw, to the agent's first answer, and of a fork: medians.
func BenchmarkThaw(b *testing.B) {
	h, m := newHypervisor(b), theLab.Machine(b)
	m.MemoryBytes = 128 << 20
	_, frozen := template(b, h, m)
	var s stages
	for range b.N {
		m := cloneOf(b, m)
		begin := time.Now()
		s.begin()
		frozen.Stage = s.end
		i := thawMachine(b, h, m, frozen)
		s.begin()
		c, err := i.DialGuest(bounded(b, time.Minute))
		if err != nil {
			b.Fatal(err)
		}
		s.end("session")
		awaitAgent(b, i)
		s.end("answer")
		s.add("total", time.Since(begin))
		awaitAgent(b, i)
		s.end("again")
		_ = c.Close()
		if err := i.Kill(bounded(b, time.Minute)); err != nil {
			b.Fatal(err)
		}
	}
	s.report(b)
}

// BenchmarkForkAtOnce is BenchmarkFork with the new VMM started while the source is being frozen.
func BenchmarkForkAtOnce(b *testing.B) { benchmarkFork(b, true, own15) }

// BenchmarkForkLarge has some 100 MB of own pages.
func BenchmarkForkLarge(b *testing.B) {
	benchmarkFork(b, true, "dd if=/dev/urandom of=/dev/own bs=1M count=92; echo done >/dev/filled")
}

// BenchmarkForkWriting has a guest that writes and fsyncs all the time.
func BenchmarkForkWriting(b *testing.B) {
	benchmarkFork(b, true, own15+"; while :; do dd if=/dev/urandom of=/written bs=64k count=16 conv=fsync; done")
}

const own15 = "dd if=/dev/urandom of=/dev/own bs=1M count=8; echo done >/dev/filled"

// BenchmarkFork measures a fork of a running clone with own pages of some 15 MB.
func BenchmarkFork(b *testing.B) { benchmarkFork(b, false, own15) }

func benchmarkFork(b *testing.B, atOnce bool, before string) {
	b.Helper()
	h, m := newHypervisor(b), theLab.Machine(b)
	m.MemoryBytes = 256 << 20
	_, image := template(b, h, m)
	m = cloneOf(b, m)
	source := thawMachine(b, h, m, image)
	awaitAgent(b, source)
	session(b, source, "fill", before)
	script(b, source, "filled", "while [ ! -s /dev/filled ]; do sleep 0.1; done")
	var s stages
	for n := range b.N {
		dir, next := b.TempDir(), cloneOf(b, m)
		above := map[string]string{}
		for k, d := range m.Drives {
			if !d.ReadOnly {
				m.Drives[k] = layer(b, d, fmt.Sprintf("%s.%d", d.Path, n), m.UID)
				above[d.Serial] = m.Drives[k].Path
			}
		}
		begin := time.Now()
		s.begin()
		var res hypervisor.FreezeResult
		var took time.Duration
		freeze := func(context.Context) (err error) {
			begin := time.Now()
			res, err = source.Freeze(bounded(b, time.Minute), hypervisor.Freeze{Dir: dir, Overlays: above, Resume: true, Transient: true})
			took = time.Since(begin)
			return err
		}
		frozen := hypervisor.Frozen{
			Device: filepath.Join(dir, hypervisor.FrozenDevice), Memory: image.Memory, Pages: filepath.Join(dir, hypervisor.FrozenPages), Stage: s.end,
		}
		if atOnce {
			done := make(chan error, 1)
			go func() { done <- freeze(b.Context()) }()
			frozen.Await = func(context.Context) error { defer s.end("wait"); return <-done }
		} else if err := freeze(b.Context()); err != nil {
			b.Fatal(n, err)
		}
		i := thawMachine(b, h, next, frozen)
		s.begin()
		awaitAgent(b, i)
		s.end("answer")
		s.add("total", time.Since(begin))
		s.add("freeze", took)
		s.add("stood", res.StoodStill)
		s.add("own-MB(as)", time.Duration(res.MemoryBytes>>20)*time.Millisecond)
		if err := i.Kill(bounded(b, time.Minute)); err != nil {
			b.Fatal(err)
		}
	}
	s.report(b)
}
