package agent_test

import (
	"bytes"
	"context"
	"crypto/rand"
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
	"banger/internal/frame"
	agentclient "banger/internal/guest"
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

// newFreezer freezes a template of a root with a shell, or of a given root disk; look is called when it is ready.
func newFreezer(t testing.TB, root string, memory int64, look func(*vm)) *freezer {
	t.Helper()
	return freeze(t, root, memory, look, "", agentapi.Release{})
}

// newFurnishedFreezer makes a template as banger does: clones find their work disk mounted.
func newFurnishedFreezer(t testing.TB, binary string, r agentapi.Release) *freezer {
	t.Helper()
	return freeze(t, "", 128<<20, nil, binary, r)
}

func freeze(t testing.TB, root string, memory int64, look func(*vm), binary string, r agentapi.Release) *freezer {
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
	// As a template's own has it, which knows the host's key.
	ssh := filepath.Join(content, "root/.ssh")
	if err := os.Mkdir(ssh, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(ssh, "authorized_keys"), "# banger: keys of the host; changes between these lines are lost\n"+
		identity(t).AuthorizedKeys[0]+"\n# banger: end\n", 0o600)
	f := &freezer{t: t, lab: l, work: l.disk(t, "filled.img", content, 600<<20)}
	f.h = qemu.New(qemu.Options{Host: local.New(), Paths: config.Paths{State: short(t)}, Log: slog.New(slog.DiscardHandler), Binary: binary})
	f.base = hypervisor.Machine{
		ID: "template", CPUs: 1, MemoryBytes: memory, Kernel: l.kernel, Initramfs: l.initramfs, Cmdline: "quiet net.ifnames=0",
		Drives: []hypervisor.Drive{
			{Serial: agentapi.SerialRoot, Path: root, Format: "raw"},
			{Serial: agentapi.SerialModules, Path: filepath.Join(l.dir, "modules.img"), Format: "raw", ReadOnly: true},
			{Serial: agentapi.SerialWork, Path: l.disk(t, "blank.img", "", 600<<20), Format: "raw"},
		},
	}
	m, w := f.machine("template", bootMAC, f.base.Drives)
	i, err := f.h.Start(bounded(t), m, func(hypervisor.Handles) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	v := f.running(i, m, w)
	if err := v.Release(bounded(t), r); err != nil {
		t.Fatal(err)
	}
	if _, err := v.WaitReady(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if look != nil {
		look(v)
	}
	if err := v.Quiesce(bounded(t)); err != nil {
		t.Fatal(err)
	}
	f.frozen = v.freeze(true)
	f.base.Drives = slices.Clone(m.Drives)
	if r.WorkDisk == nil {
		f.base.Drives[2].Path, f.base.Drives[2].Format = f.work, "raw"
	}
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
	i, err := f.h.Thaw(bounded(f.t), m, frozen, func(hypervisor.Handles) error { return nil })
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

// identities makes n of them that differ in everything.
func identities(t testing.TB, n int) (out []agentapi.Personalise) {
	t.Helper()
	for i := range n {
		p := identity(t)
		p.Hostname, p.MachineID = fmt.Sprintf("c%d", i), fmt.Sprintf("%032x", i+1)
		p.Network.MAC, p.Network.Address = fmt.Sprintf("52:54:00:12:00:%02x", i+1), fmt.Sprintf("10.9.8.%d/24", i+10)
		p.Entropy = make([]byte, 64)
		_, _ = rand.Read(p.Entropy)
		out = append(out, p)
	}
	return out
}

// unlike are things that no two machines share; the first line is what a guest must have been given.
const unlike = `echo $(hostname) $(cat /etc/hostname /etc/machine-id /sys/class/net/eth0/address) $(ip -4 -o addr show eth0 | grep -o 'inet [^ ]*')
cat /proc/sys/kernel/random/boot_id
for i in 1 2 3; do cat /proc/sys/kernel/random/uuid; done
dd if=/dev/urandom bs=16 count=1 2>/dev/null | od -An -tx1
tail -5 /etc/ssh/ssh_host_ed25519_key`

// shows fails when a script does not print what is wanted, and soon waits for it.
func (v *vm) shows(script, want string) {
	v.f.t.Helper()
	if got := v.sh(script); got != want {
		v.f.t.Errorf("%s: %s: got %q, want %q", v.m.ID, script, got, want)
	}
}

func (v *vm) soon(script, want string) {
	v.f.t.Helper()
	got := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if got = v.sh(script); got == want {
			return
		}
	}
	v.f.t.Errorf("%s: %s: got %q, want %q", v.m.ID, script, got, want)
}

// differs fails when a line was seen before, in this guest or in another.
func (v *vm) differs(seen map[string]string, who agentapi.Personalise) {
	v.f.t.Helper()
	lines := strings.Split(v.sh(unlike), "\n")
	if want := strings.Join([]string{who.Hostname, who.Hostname, who.MachineID, who.Network.MAC, "inet", who.Network.Address}, " "); lines[0] != want {
		v.f.t.Errorf("it is %q, want %q", lines[0], want)
	}
	for _, l := range lines {
		if l == "-----END OPENSSH PRIVATE KEY-----" {
			continue
		}
		if of, ok := seen[l]; ok {
			v.f.t.Errorf("%s has %q, and so has %s", v.m.ID, l, of)
		}
		seen[l] = v.m.ID
	}
}

// onTime fails when the guest's clock is off by more than banger promises, as far as can be told from here.
func (v *vm) onTime() {
	v.f.t.Helper()
	asked := time.Now()
	h, err := v.Health(bounded(v.f.t))
	if err != nil {
		v.f.t.Fatal(err)
	}
	if late, early := asked.Sub(h.Now), time.Until(h.Now); late > 50*time.Millisecond || early > 50*time.Millisecond {
		v.f.t.Errorf("%s: the clock is %v late or %v early", v.m.ID, late, early)
	}
}

// speaksAs waits for the guest's first word to the network, and fails when it says something with another address.
func (v *vm) speaksAs(mac string) {
	v.f.t.Helper()
	if len(v.w.all()) > 0 {
		v.f.t.Errorf("%s has sent something before it was personalised", v.m.ID)
	}
	if err := v.i.SetLink(bounded(v.f.t), true); err != nil {
		v.f.t.Fatal(err)
	}
	await(v.f.t, "the guest's word to the network", func() bool { return len(v.w.all()) > 0 })
	hw, err := net.ParseMAC(mac)
	if err != nil {
		v.f.t.Fatal(err)
	}
	for _, f := range v.w.all() {
		if len(f) < 12 || !bytes.Equal(f[6:12], hw) {
			v.f.t.Errorf("%s has sent %x", v.m.ID, f)
		}
	}
}

// counts waits until a program that appends a line every tenth of a second has done so again.
func (v *vm) counts(file string) {
	v.f.t.Helper()
	was := v.sh("wc -l < " + file)
	await(v.f.t, "the program that counts in "+v.m.ID, func() bool { return v.sh("wc -l < "+file) != was })
}

// TestThaw makes clones of a template, a fork of one, a fork of that, and lets one go on from its own memory.
func TestThaw(t *testing.T) {
	f := newFreezer(t, "", 128<<20, nil)
	who := identities(t, 5)
	seen := map[string]string{}
	var clones []*vm
	for n := range 2 {
		v := f.thaw(fmt.Sprintf("clone%d", n), who[n].Network.MAC, f.frozen, f.base.Drives)
		h, took := v.personalise(who[n])
		t.Logf("%s personalised in %v", v.m.ID, took)
		if !h.Ready || !h.Personalised {
			t.Errorf("%s: %+v", v.m.ID, h)
		}
		v.onTime()
		v.speaksAs(who[n].Network.MAC)
		v.differs(seen, who[n])
		clones = append(clones, v)
	}
	source := clones[0]
	if err := clones[1].i.Kill(bounded(t)); err != nil {
		t.Fatal(err)
	}
	// A program with its output in an open file, a file in memory, a command that the host waits for, a session.
	source.sh("(while :; do echo; sleep 0.1; done >/root/count) >/dev/null 2>&1 & mount -t tmpfs none /mnt 2>/dev/null || { mkdir -p /mnt; mount -t tmpfs none /mnt; }; echo kept >/mnt/kept")
	waiting, err := source.Exec(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	spec := api.ExecSpec{Argv: []string{"/bin/sh", "-c", "echo $$ >/run/waiting; exec sleep 1000"}}
	if err := frame.NewWriter(waiting).Control(api.Control{Type: api.ControlStart, Exec: &spec}); err != nil {
		t.Fatal(err)
	}
	if _, err := source.StartSession(bounded(t), agentapi.SessionStart{ID: "main", Exec: api.ExecSpec{Argv: []string{"/bin/sh", "-c", "until test -e /run/go; do sleep 0.1; done; echo through"}}}); err != nil {
		t.Fatal(err)
	}
	await(t, "the command", func() bool { return source.sh("cat /run/waiting 2>/dev/null") != "" })
	pid := source.sh("cat /run/waiting")

	forked := []*vm{source}
	for n := 2; n < 4; n++ { // the second is a fork of the first
		from := forked[len(forked)-1]
		base := slices.Clone(from.m.Drives)
		frozen := from.freeze(false)
		who[n].Thawed = agentapi.ThawedFork
		v := f.thaw(fmt.Sprintf("fork%d", n), who[n].Network.MAC, frozen, base)
		h, took := v.personalise(who[n])
		t.Logf("%s personalised in %v", v.m.ID, took)
		if !h.Ready || !h.Personalised {
			t.Errorf("%s: %+v", v.m.ID, h)
		}
		v.onTime()
		v.speaksAs(who[n].Network.MAC)
		v.differs(seen, who[n])
		v.counts("/root/count")
		if got := v.sh("cat /mnt/kept; readlink /proc/" + pid + "/exe"); got != "kept\n/bin/busybox" {
			t.Errorf("%s: %q", v.m.ID, got)
		}
		forked = append(forked, v)
	}
	last := forked[2]
	last.sh("touch /run/go")
	s, err := last.Session(bounded(t), "main")
	for ; err == nil && s.State == api.SessionRunning; s, err = last.Session(bounded(t), "main") {
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil || s.ExitCode != 0 || s.StdoutBytes != int64(len("through\n")) {
		t.Errorf("the session in the fork: %+v, %v", s, err)
	}
	// The source has noticed nothing.
	source.counts("/root/count")
	if got := source.sh("hostname; readlink /proc/" + pid + "/exe; ls /run/go 2>/dev/null"); got != "c0\n/bin/busybox" {
		t.Errorf("the source: %q", got)
	}

	// It goes on as what it was.
	was := last.sh("hostname; cat /proc/sys/kernel/random/boot_id")
	base := slices.Clone(last.m.Drives)
	frozen := last.freeze(false)
	if err := last.i.Kill(bounded(t)); err != nil {
		t.Fatal(err)
	}
	v := f.thaw("resumed", last.m.NIC.MAC, frozen, base)
	_, took := v.personalise(agentapi.Personalise{Thawed: agentapi.ThawedResume, Entropy: who[4].Entropy, Network: who[3].Network})
	t.Logf("resumed in %v", took)
	v.onTime()
	v.speaksAs(who[3].Network.MAC)
	if got := v.sh("hostname; cat /proc/sys/kernel/random/boot_id"); got != was {
		t.Errorf("after going on it is %q, and was %q", got, was)
	}
	v.counts("/root/count")
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
	f := newFreezer(b, "", 128<<20, nil)
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
