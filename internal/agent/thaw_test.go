package agent_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/config"
	agentclient "banger/internal/guest"
	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/qemu"
)

// freezer makes real templates and thaws real clones.
type freezer struct {
	t      testing.TB
	lab    lab
	h      *qemu.Hypervisor
	work   string // a work disk that is formatted and filled
	frozen hypervisor.Frozen
	base   hypervisor.Machine
}

func short(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func bounded(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// newFreezer freezes a template of a root with a shell, or of a given root disk.
func newFreezer(t testing.TB, root string, memory int64) *freezer {
	t.Helper()
	l := newLab(t)
	l.modulesDisk(t)
	if root == "" {
		root = l.disk(t, "root.img", busyboxRoot(t), 64<<20)
	}
	content := t.TempDir()
	for _, d := range []string{"root", "home"} {
		if err := os.Mkdir(filepath.Join(content, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f := &freezer{t: t, lab: l, work: l.disk(t, "filled.img", content, 600<<20)}
	f.h = qemu.New(qemu.Options{Host: local.New(), Paths: config.Paths{State: short(t)}, Log: slog.New(slog.DiscardHandler)})
	f.base = hypervisor.Machine{
		ID: "template", CPUs: 1, MemoryBytes: memory, Kernel: l.kernel, Initramfs: l.initramfs, Cmdline: "quiet net.ifnames=0 mitigations=off",
		Drives: []hypervisor.Drive{
			{Serial: agentapi.SerialRoot, Path: root, Format: "raw"},
			{Serial: agentapi.SerialModules, Path: filepath.Join(l.dir, "modules.img"), Format: "raw", ReadOnly: true},
			{Serial: agentapi.SerialWork, Path: l.disk(t, "blank.img", "", 600<<20), Format: "raw"},
		},
	}
	m, w := f.machine("template", bootMAC, f.base.Drives)
	i, err := f.h.Start(bounded(t), m, func(host.Process) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	v := f.running(i, m, w)
	if err := v.Release(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := v.WaitReady(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if err := v.Quiesce(bounded(t)); err != nil {
		t.Fatal(err)
	}
	f.frozen = v.freeze(true)
	f.base.Drives = slices.Clone(m.Drives)
	f.base.Drives[2].Path, f.base.Drives[2].Format = f.work, "raw"
	if err := i.Kill(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if len(w.all()) > 0 {
		t.Error("the template has sent something")
	}
	return f
}

// machine is one on layers over the drives, with a wire of its own.
func (f *freezer) machine(id, mac string, drives []hypervisor.Drive) (hypervisor.Machine, *wire) {
	f.t.Helper()
	m := f.base
	m.ID, m.Dir, m.Drives = id, short(f.t), slices.Clone(drives)
	for n, d := range m.Drives {
		if !d.ReadOnly {
			m.Drives[n] = f.layer(d, filepath.Join(m.Dir, d.Serial))
		}
	}
	w := newWire(f.t, filepath.Join(m.Dir, "n"))
	m.NIC = &hypervisor.NIC{Kind: hypervisor.NICSocket, MAC: mac, Socket: filepath.Join(m.Dir, "n")}
	return m, w
}

func (f *freezer) layer(base hypervisor.Drive, path string) hypervisor.Drive {
	f.t.Helper()
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-b", base.Path, "-F", base.Format, path).CombinedOutput(); err != nil {
		f.t.Fatalf("%v: %s", err, out)
	}
	base.Path, base.Format = path, "qcow2"
	return base
}

// vm is a running one.
type vm struct {
	*agentclient.Client
	f *freezer
	i hypervisor.Instance
	m hypervisor.Machine
	w *wire
}

func (f *freezer) running(i hypervisor.Instance, m hypervisor.Machine, w *wire) *vm {
	f.t.Helper()
	f.t.Cleanup(func() {
		_ = i.Kill(bounded(f.t))
		if f.t.Failed() || os.Getenv("BANGER_TEST_CONSOLE") != "" {
			names, _ := filepath.Glob(filepath.Join(m.Dir, "*"))
			for _, n := range names {
				if st, err := os.Stat(n); err == nil && st.Mode().IsRegular() && st.Size() < 64<<10 {
					data, _ := os.ReadFile(n)
					f.t.Logf("%s:\n%s", n, data)
				}
			}
		}
	})
	go func() {
		for range i.Events() {
		}
	}()
	return &vm{Client: agentclient.New(i.DialGuest), f: f, i: i, m: m, w: w}
}

// thaw makes a clone or, with another state and its drives, a fork.
func (f *freezer) thaw(id, mac string, frozen hypervisor.Frozen, drives []hypervisor.Drive) *vm {
	f.t.Helper()
	m, w := f.machine(id, mac, drives)
	i, err := f.h.Thaw(bounded(f.t), m, frozen, func(host.Process) error { return nil })
	if err != nil {
		f.t.Fatal(err)
	}
	return f.running(i, m, w)
}

// freeze writes the state; the guest goes on on layers over the drives that belong to it.
func (v *vm) freeze(whole bool) hypervisor.Frozen {
	v.f.t.Helper()
	dir := v.f.t.TempDir()
	above := map[string]string{}
	for n, d := range v.m.Drives {
		if d.ReadOnly || (whole && n == 2) {
			continue
		}
		above[d.Serial] = v.f.layer(d, fmt.Sprintf("%s.%d", d.Path, time.Now().UnixNano())).Path
	}
	if _, err := v.i.Freeze(bounded(v.f.t), hypervisor.Freeze{Dir: dir, Whole: whole, Overlays: above, Resume: true}); err != nil {
		v.f.t.Fatal(err)
	}
	fz := hypervisor.Frozen{Device: filepath.Join(dir, hypervisor.FrozenDevice), Memory: v.f.frozen.Memory}
	if whole {
		fz.Memory = filepath.Join(dir, hypervisor.FrozenMemory)
	} else {
		fz.Pages = filepath.Join(dir, hypervisor.FrozenPages)
	}
	return fz
}

func (v *vm) personalise(p agentapi.Personalise) (agentapi.Health, time.Duration) {
	v.f.t.Helper()
	begin := time.Now()
	p.Time = begin
	h, err := v.Personalise(bounded(v.f.t), p)
	if err != nil {
		v.f.t.Fatal(err)
	}
	return h, time.Since(begin)
}

func (v *vm) sh(script string) string {
	v.f.t.Helper()
	res, err := v.ExecWait(bounded(v.f.t), api.ExecSpec{Argv: []string{"/bin/sh", "-c", script}})
	if err != nil {
		v.f.t.Fatal(err)
	}
	return strings.TrimSpace(res.Stdout + res.Stderr)
}

// wire is the other end of a guest's network cable, which answers nothing.
type wire struct {
	mu     sync.Mutex // protects frames
	frames [][]byte
}

func newWire(t testing.TB, path string) *wire {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	w := &wire{}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go w.read(c)
		}
	}()
	return w
}

func (w *wire) read(c net.Conn) {
	defer c.Close()
	for {
		var n uint32
		if binary.Read(c, binary.BigEndian, &n) != nil {
			return
		}
		p := make([]byte, n)
		if _, err := io.ReadFull(c, p); err != nil {
			return
		}
		w.mu.Lock()
		w.frames = append(w.frames, p)
		w.mu.Unlock()
	}
}

func (w *wire) all() [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.frames)
}

// cpu is the time that the VMM has run so far, which is about the same on a busy machine.
func (v *vm) cpu() time.Duration {
	v.f.t.Helper()
	var sum time.Duration
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", v.i.Process().PID))
	for _, n := range names {
		data, err := os.ReadFile(n)
		if err != nil {
			continue
		}
		var ns int64
		_, _ = fmt.Sscan(string(data), &ns)
		sum += time.Duration(ns)
	}
	return sum
}

// BenchmarkPersonalise measures, each time in a new clone: medians of time, and of the VMM's time on a core.
func BenchmarkPersonalise(b *testing.B) {
	f := newFreezer(b, "", 128<<20)
	who := identity(b)
	all := map[string][]time.Duration{}
	for n := range b.N {
		var v *vm
		measure := func(what string, fn func()) {
			begin, had := time.Now(), time.Duration(0)
			if v != nil {
				had = v.cpu()
			}
			fn()
			all[what] = append(all[what], time.Since(begin))
			all[what+"-cpu"] = append(all[what+"-cpu"], v.cpu()-had)
		}
		measure("thaw", func() { v = f.thaw(fmt.Sprintf("c%d", n), "52:54:00:00:00:77", f.frozen, f.base.Drives) })
		measure("health", func() {
			if _, err := v.Health(bounded(b)); err != nil {
				b.Fatal(err)
			}
		})
		measure("personalise", func() { v.personalise(who) })
		measure("exec", func() { v.sh("true") })
		measure("again", func() { v.personalise(who) })
		_ = v.i.Kill(bounded(b))
	}
	for name, d := range all {
		slices.Sort(d)
		if strings.HasSuffix(name, "-cpu") {
			b.ReportMetric(float64(d[0].Microseconds())/1000, name+"-min-ms")
		} else {
			b.ReportMetric(float64(d[len(d)/2].Microseconds())/1000, name+"-ms")
		}
	}
	b.ReportMetric(0, "ns/op")
}
