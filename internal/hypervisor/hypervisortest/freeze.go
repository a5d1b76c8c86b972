package hypervisortest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/host"
	"banger/internal/hypervisor"
)

// freezer is one machine from which everything else comes: it is booted once.
type freezer struct {
	create Factory
	layer  Layer
	h      hypervisor.Hypervisor
	// real guests have memory, processes and disks of their own.
	real bool
	// top is a directory that the VMMs of all uids may look into.
	top string
	// seq numbers machines and directories.
	mu  sync.Mutex
	seq int
}

// testFreeze leads one guest through freezing and thawing.
func testFreeze(t *testing.T, create Factory, layer Layer) {
	h, m := create(t)
	z := &freezer{create: create, layer: layer, h: h, real: h.Name() != "fake", top: filepath.Dir(m.Dir)}
	source := start(t, h, m)
	before := waitReady(t, source)
	z.count(t, source)

	image, base := z.freezeWhole(t, source, m)
	if got, err := health(bounded(t, time.Minute), source); err != nil || got.BootID != before.BootID {
		t.Errorf("the source after the freeze: %+v, %v", got, err)
	}
	one, two := z.machine(t, base), z.machine(t, base)
	var clones [2]*running
	t.Run("TwoClones", func(t *testing.T) {}) // named for its place in the report; the clones outlive it
	var wg sync.WaitGroup
	for n, m := range []hypervisor.Machine{one, two} {
		wg.Go(func() { clones[n] = z.thaw(t, m, image) })
	}
	wg.Wait()
	if clones[0] == nil || clones[1] == nil {
		t.FailNow()
	}
	for _, r := range append(clones[:], source) {
		if got, err := health(bounded(t, time.Minute), r); err != nil || got.BootID != before.BootID {
			t.Errorf("health: %+v, %v; want boot %s", got, err, before.BootID)
		}
		z.wantCounting(t, r)
	}
	t.Run("Apart", func(t *testing.T) { z.testApart(t, source, clones[0], clones[1]) })
	t.Run("Pause", func(t *testing.T) { z.testPause(t, clones[1]) })
	t.Run("Link", func(t *testing.T) {
		for _, up := range []bool{false, true, true} {
			if err := clones[1].SetLink(bounded(t, time.Minute), up); err != nil {
				t.Errorf("SetLink(%v): %v", up, err)
			}
		}
	})
	t.Run("FreezeFails", func(t *testing.T) { z.testFreezeFails(t, clones[0]) })
	t.Run("Fork", func(t *testing.T) { z.testFork(t, clones[0], one, image) })
	t.Run("Flatten", func(t *testing.T) { z.testFlatten(t, base, image) })
	t.Run("Suspend", func(t *testing.T) { z.testSuspend(t, clones[1], two, image) })
	t.Run("Damaged", func(t *testing.T) { z.testDamaged(t, base, image) })
}

// Thaws thaws one guest twice, from its whole memory and from its own pages: for a machine of another kind than Run's.
func Thaws(t *testing.T, create Factory, layer Layer) {
	h, m := create(t)
	z := &freezer{create: create, layer: layer, h: h, real: true, top: filepath.Dir(m.Dir)}
	source := start(t, h, m)
	waitReady(t, source)
	z.count(t, source)
	frozen, base := z.freezeWhole(t, source, m)
	if err := source.Kill(bounded(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	m = z.machine(t, base)
	for range 2 {
		r := z.thaw(t, m, frozen)
		if r == nil {
			t.FailNow()
		}
		z.wantCounting(t, r)
		dir := z.dir(t)
		res, err := r.Freeze(bounded(t, bootTime), hypervisor.Freeze{Dir: dir})
		if err != nil {
			t.Fatalf("Freeze: %v", err)
		}
		t.Logf("frozen: %d KiB of its own", res.MemoryBytes>>10)
		if err := r.Kill(bounded(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		frozen.Device, frozen.Pages = filepath.Join(dir, hypervisor.FrozenDevice), filepath.Join(dir, hypervisor.FrozenPages)
	}
}

// count starts a process in the guest that counts, in memory.
func (z *freezer) count(t *testing.T, r *running) {
	t.Helper()
	if !z.real {
		return
	}
	spec := api.ExecSpec{Argv: []string{"/bin/sh", "-c", "echo kept >/dev/kept; i=0; while :; do i=$((i+1)); echo $i >/dev/count; sleep 0.1; done"}, Cwd: "/"}
	err := call(bounded(t, time.Minute), r, http.MethodPost, "/sessions", agentapi.SessionStart{ID: "count", Exec: spec}, &struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	z.wantCounting(t, r)
}

// wantCounting sees the count grow, and what lies in memory still there.
func (z *freezer) wantCounting(t *testing.T, r *running) {
	t.Helper()
	if !z.real {
		return
	}
	got := run(t, r, "/bin/sh", "-c", "n=0; while [ ! -s /dev/count ]; do sleep 0.05; done; read a </dev/count; while read b </dev/count; [ \"${b:-0}\" -le \"${a:-0}\" ] && [ $n -lt 600 ]; do n=$((n+1)); sleep 0.05; done; cat /dev/kept; echo $a $b; [ $b -gt $a ]")
	if got.ExitCode != 0 || !strings.HasPrefix(got.Stdout, "kept\n") {
		t.Errorf("the guest does not count on: %+v", got)
	}
}

// machine is a further machine like m, on layers over its drives.
func (z *freezer) machine(t *testing.T, m hypervisor.Machine) hypervisor.Machine {
	t.Helper()
	_, own := z.create(t) // for its directory and uid
	z.mu.Lock()
	z.seq++
	m.ID = fmt.Sprintf("clone%d", z.seq)
	z.mu.Unlock()
	m.Dir, m.UID, m.GID = own.Dir, own.UID, own.GID
	m.Drives = z.layers(t, m, m.Dir)
	return m
}

// layers puts a layer over each writable drive.
func (z *freezer) layers(t *testing.T, m hypervisor.Machine, dir string) []hypervisor.Drive {
	t.Helper()
	drives := make([]hypervisor.Drive, len(m.Drives))
	for n, d := range m.Drives {
		drives[n] = d
		if !d.ReadOnly {
			drives[n] = z.layer(t, d, filepath.Join(z.dir(t), d.Serial), m.UID)
		}
	}
	return drives
}

// dir is a new directory that every uid may look into.
func (z *freezer) dir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(z.top, "z")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func overlays(drives []hypervisor.Drive) map[string]string {
	out := map[string]string{}
	for _, d := range drives {
		if !d.ReadOnly {
			out[d.Serial] = d.Path
		}
	}
	return out
}

// freezeWhole makes a template of the source. It returns the state, and the machine with the drives that belong to it.
func (z *freezer) freezeWhole(t *testing.T, source *running, m hypervisor.Machine) (hypervisor.Frozen, hypervisor.Machine) {
	t.Helper()
	above := z.layers(t, m, m.Dir)
	dir := z.dir(t)
	var stages []string
	res, err := source.Freeze(bounded(t, bootTime), hypervisor.Freeze{Dir: dir, Whole: true, Overlays: overlays(above), Resume: true, Stage: func(name string) {
		stages = append(stages, name)
	}})
	if err != nil {
		t.Fatalf("Freeze: %v", err)
	}
	t.Logf("frozen whole: %d MiB, stood still %v", res.MemoryBytes>>20, res.StoodStill)
	if z.real && (res.MemoryBytes < 1<<20 || res.MemoryBytes > m.MemoryBytes || res.StoodStill <= 0 || res.StoodStill > time.Minute) {
		t.Errorf("Freeze: %+v", res)
	}
	if !slices.Equal(stages, []string{hypervisor.StageStand, hypervisor.StageCopy, hypervisor.StageSwitch, hypervisor.StageWrite}) {
		t.Errorf("stages of Freeze: %v", stages)
	}
	wantFiles(t, dir, hypervisor.FrozenDevice, hypervisor.FrozenMemory)
	z.wantDrives(t, source, above)
	return hypervisor.Frozen{Device: filepath.Join(dir, hypervisor.FrozenDevice), Memory: filepath.Join(dir, hypervisor.FrozenMemory)}, m
}

func (z *freezer) wantDrives(t *testing.T, r *running, drives []hypervisor.Drive) {
	t.Helper()
	got, err := r.DriveFiles(bounded(t, time.Minute))
	if err != nil || len(got) != len(drives) {
		t.Errorf("DriveFiles = %v, %v", got, err)
	}
	for _, d := range drives {
		if got[d.Serial] != d.Path {
			t.Errorf("drive %s is in %s, want %s", d.Serial, got[d.Serial], d.Path)
		}
	}
}

func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

// thaw thaws a state as machine m.
func (z *freezer) thaw(t *testing.T, m hypervisor.Machine, f hypervisor.Frozen) *running {
	t.Helper()
	var recorded host.Process
	ran := false
	f.BeforeRun = func() error { ran = recorded != host.Process{}; return nil }
	begin := time.Now()
	i, err := z.h.Thaw(bounded(t, bootTime), m, f, recorder(t, m, &recorded))
	if err != nil {
		t.Errorf("Thaw: %v", err)
		return nil
	}
	thawed := time.Since(begin)
	if !ran {
		t.Error("BeforeRun was not called after record")
	}
	r := begun(t, m, i, recorded)
	if _, err := health(bounded(t, bootTime), r); err != nil {
		t.Errorf("the thawed guest: %v", err)
	}
	t.Logf("thawed in %v, answered after %v", thawed, time.Since(begin))
	return r
}

// testApart: what one writes, no other sees.
func (z *freezer) testApart(t *testing.T, source, one, two *running) {
	if !z.real {
		return
	}
	run(t, one, "/bin/sh", "-c", "echo one >/mine; echo one >/dev/kept; sync")
	for name, r := range map[string]*running{"the other clone": two, "the source": source} {
		if got := run(t, r, "/bin/sh", "-c", "cat /dev/kept; cat /mine"); got.Stdout != "kept\n" || got.ExitCode == 0 {
			t.Errorf("%s sees what the first clone has written: %+v", name, got)
		}
	}
	run(t, one, "/bin/sh", "-c", "echo kept >/dev/kept")
}

func (z *freezer) testPause(t *testing.T, r *running) {
	talk := echoes(t, r)
	talk.goesOn(t)
	for range 2 {
		if err := r.Pause(bounded(t, time.Minute)); err != nil {
			t.Fatalf("Pause: %v", err)
		}
	}
	if !r.Standing() {
		t.Error("not standing after Pause")
	}
	short := bounded(t, 300*time.Millisecond)
	if got, err := health(short, r); err == nil {
		t.Errorf("a paused guest answers: %+v", got)
	}
	for range 2 {
		if err := r.Resume(bounded(t, time.Minute)); err != nil {
			t.Fatalf("Resume: %v", err)
		}
	}
	if r.Standing() {
		t.Error("standing after Resume")
	}
	if _, err := health(bounded(t, time.Minute), r); err != nil {
		t.Errorf("after Resume: %v", err)
	}
	talk.goesOn(t)
	talk.end(t)
	z.wantCounting(t, r)
	r.wantQuiet(t)
}

// testFreezeFails: the guest runs on, on the same disks, and no file is left.
func (z *freezer) testFreezeFails(t *testing.T, r *running) {
	before, err := r.DriveFiles(bounded(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	full := z.dir(t)
	if err := os.Mkdir(filepath.Join(full, hypervisor.FrozenPages), 0o700); err != nil { // in the way
		t.Fatal(err)
	}
	for name, f := range map[string]hypervisor.Freeze{
		"no directory":         {Dir: filepath.Join(full, "missing"), Resume: true},
		"a file is in the way": {Dir: full},
		"no such layer":        {Dir: z.dir(t), Overlays: map[string]string{"banger-root": filepath.Join(full, "no-layer")}, Resume: true},
		"no such drive":        {Dir: z.dir(t), Overlays: map[string]string{"no-such-drive": filepath.Join(full, "no-layer")}},
	} {
		if !z.real && f.Overlays != nil {
			continue
		}
		if res, err := r.Freeze(bounded(t, time.Minute), f); err == nil {
			t.Errorf("%s: Freeze succeeded: %+v", name, res)
		}
		if r.Standing() {
			t.Errorf("%s: the guest was left standing", name)
		}
	}
	wantFiles(t, full, hypervisor.FrozenPages)
	after, err := r.DriveFiles(bounded(t, time.Minute))
	if err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the drives moved from %v to %v, %v", before, after, err)
	}
	z.wantCounting(t, r)
}

// lastWords writes more than a layer's tables have room for at first, and forgets it but for its sum.
const lastWords = "dd if=/dev/urandom of=/last bs=64k count=32 2>/dev/null; md5sum </last >/dev/last; sync; echo 3 >/proc/sys/vm/drop_caches"

// saidTwice reports whether a text is something twice.
func saidTwice(text string) bool {
	half := len(text) / 2
	return half > 0 && text[:half] == text[half:]
}

// testFork freezes a clone that goes on, and thaws the copy.
func (z *freezer) testFork(t *testing.T, source *running, m hypervisor.Machine, image hypervisor.Frozen) {
	if z.real {
		// A writer that syncs all it writes: everything it has said must be on the fork's disk.
		spec := api.ExecSpec{Argv: []string{"/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >>/written; sync; echo $i >/dev/written; done"}, Cwd: "/"}
		if err := call(bounded(t, time.Minute), source, http.MethodPost, "/sessions", agentapi.SessionStart{ID: "write", Exec: spec}, &struct{}{}); err != nil {
			t.Fatal(err)
		}
		run(t, source, "/bin/sh", "-c", "while [ ! -s /dev/written ]; do sleep 0.05; done")
	}
	above, copied := z.layers(t, m, m.Dir), z.machine(t, m)
	dir := z.dir(t)
	// A freeze that goes on is nothing to those who are talking to the guest; of their streams the copy has none.
	talk := echoes(t, source)
	talk.goesOn(t)
	frozen := hypervisor.Frozen{
		Device: filepath.Join(dir, hypervisor.FrozenDevice), Memory: image.Memory, Pages: filepath.Join(dir, hypervisor.FrozenPages),
		// The fork's VMM is there before the source stands, which writes on: whole megabytes, of which its memory keeps nothing.
		Await: func(ctx context.Context) error {
			if z.real {
				run(t, source, "/bin/sh", "-c", lastWords)
			}
			res, err := source.Freeze(ctx, hypervisor.Freeze{Dir: dir, Overlays: overlays(above), Resume: true, Transient: true})
			t.Logf("frozen: %d KiB, stood still %v", res.MemoryBytes>>10, res.StoodStill)
			return err
		},
	}
	r := z.thaw(t, copied, frozen)
	if r == nil {
		t.FailNow()
	}
	frozen.Await = nil
	talk.goesOn(t)
	wantFiles(t, dir, hypervisor.FrozenDevice, hypervisor.FrozenPages)
	z.wantDrives(t, source, above)
	z.wantCounting(t, source)
	z.wantCounting(t, r)
	talk.goesOn(t)
	talk.end(t)
	if z.real {
		// The writer goes on here, too: between its truncating the file and its writing there is nothing to be read.
		got := run(t, r, "/bin/sh", "-c", "n=; until [ -n \"$n\" ]; do n=$(cat /dev/written); done; echo $n; sync; echo 1 >/proc/sys/vm/drop_caches; tail -n 1 /written")
		f := strings.Fields(got.Stdout)
		if len(f) != 2 {
			t.Fatalf("the fork's disk: %+v", got)
		}
		for name, r := range map[string]*running{"fork": r, "source": source} {
			if got := run(t, r, "/bin/sh", "-c", "md5sum </last; cat /dev/last"); !saidTwice(got.Stdout) {
				t.Errorf("what the source wrote when the fork's VMM was there, as the %s reads it from its disk: %+v", name, got)
			}
		}
		said, err1 := strconv.Atoi(f[0])
		have, err2 := strconv.Atoi(f[1])
		if err1 != nil || err2 != nil || have < said {
			t.Errorf("record %s was synced, the last one on disk is %s", f[0], f[1])
		}
	}
	t.Run("ForkOfFork", func(t *testing.T) {
		dir := z.dir(t)
		above := z.layers(t, copied, copied.Dir)
		if _, err := r.Freeze(bounded(t, bootTime), hypervisor.Freeze{Dir: dir, Overlays: overlays(above), Resume: true}); err != nil {
			t.Fatalf("Freeze: %v", err)
		}
		frozen := frozen
		frozen.Device, frozen.Pages = filepath.Join(dir, hypervisor.FrozenDevice), filepath.Join(dir, hypervisor.FrozenPages)
		if again := z.thaw(t, z.machine(t, copied), frozen); again != nil {
			z.wantCounting(t, again)
		}
	})
	t.Run("Reset", func(t *testing.T) {
		if !z.real {
			return
		}
		old, err := health(bounded(t, time.Minute), r)
		if err != nil {
			t.Fatal(err)
		}
		r.wantQuiet(t)
		shutdown(t, r, true)
		r.want(t, hypervisor.EventReset)
		if after := waitReady(t, r); after.BootID == old.BootID {
			t.Errorf("the guest has not rebooted: %+v", after)
		}
		if got := run(t, r, "/bin/cat", "/written"); got.ExitCode != 0 || got.Stdout == "" {
			t.Errorf("the disk after the reset: %+v", got)
		}
	})
}

// testSuspend: frozen, killed and thawed on the same disks, by another daemon.
func (z *freezer) testSuspend(t *testing.T, r *running, m hypervisor.Machine, image hypervisor.Frozen) {
	r = adopt(t, z.create, m, r)
	if r.Standing() {
		t.Error("an adopted guest stands")
	}
	for round := range 2 {
		if z.real {
			run(t, r, "/bin/sh", "-c", fmt.Sprintf("echo round %d >>/rounds; sync", round))
		}
		dir := z.dir(t)
		if _, err := r.Freeze(bounded(t, bootTime), hypervisor.Freeze{Dir: dir}); err != nil {
			t.Fatalf("Freeze: %v", err)
		}
		if !r.Standing() {
			t.Error("the guest runs on after a freeze that was to leave it standing")
		}
		r = adopt(t, z.create, m, r)
		if !r.Standing() {
			t.Error("the next daemon let a frozen guest go on")
		}
		if err := r.Kill(bounded(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		frozen := hypervisor.Frozen{Device: filepath.Join(dir, hypervisor.FrozenDevice), Memory: image.Memory, Pages: filepath.Join(dir, hypervisor.FrozenPages)}
		if r = z.thaw(t, m, frozen); r == nil {
			t.FailNow()
		}
		z.wantCounting(t, r)
	}
	if z.real {
		if got := run(t, r, "/bin/cat", "/rounds"); got.Stdout != "round 0\nround 1\n" {
			t.Errorf("the disk: %+v", got)
		}
	}
	// Killed before BeforeRun has agreed, it never ran.
	if err := r.Kill(bounded(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
}

// testDamaged: what is not what was frozen is refused, and nothing runs.
func (z *freezer) testDamaged(t *testing.T, base hypervisor.Machine, image hypervisor.Frozen) {
	m := z.machine(t, base)
	dir := z.dir(t)
	spoil := func(path string, at int64) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if at < 0 {
			b = b[:len(b)+int(at)]
		} else {
			b[at] ^= 1
		}
		f, err := os.CreateTemp(dir, "spoilt")
		if err == nil {
			_, err = f.Write(b)
		}
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		return f.Name()
	}
	cases := map[string]hypervisor.Frozen{"no device state": {Device: filepath.Join(dir, "none"), Memory: image.Memory}}
	if z.real {
		for name, f := range map[string]hypervisor.Frozen{
			"spoilt device state":    {Device: spoil(image.Device, 5000), Memory: image.Memory},
			"cut device state":       {Device: spoil(image.Device, -10), Memory: image.Memory},
			"no memory":              {Device: image.Device, Memory: filepath.Join(dir, "none")},
			"cut memory":             {Device: image.Device, Memory: spoil(image.Memory, -4096)},
			"spoilt memory":          {Device: image.Device, Memory: spoil(image.Memory, 20<<20+77)},
			"pages that are no such": {Device: image.Device, Memory: image.Memory, Pages: image.Device},
		} {
			cases[name] = f
		}
	}
	for name, f := range cases {
		z.wantRefused(t, name, m, f)
	}
	refused := image
	refused.Await = func(context.Context) error { return api.Errorf(api.CodeConflict, "the source could not be frozen") }
	z.wantRefused(t, "no state in the end", m, refused)
	other := m
	other.CPUs++
	z.wantRefused(t, "another shape", other, image)
}

func (z *freezer) wantRefused(t *testing.T, name string, m hypervisor.Machine, f hypervisor.Frozen) {
	t.Helper()
	i, err := z.h.Thaw(bounded(t, time.Minute), m, f, noRecord)
	if err == nil {
		_ = i.Kill(bounded(t, time.Minute))
	}
	if api.CodeOf(err) != api.CodeConflict {
		t.Errorf("%s: Thaw = %v, want a conflict", name, err)
	}
	wantNothing(t, z.h, m)
}
