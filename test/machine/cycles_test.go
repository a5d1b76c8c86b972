package machine

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cycles is how often a machine is made and deleted by TestLongCycles; BANGER_TEST_CYCLES is another number, to look into a failure.
func cycles(t *testing.T) int {
	text := os.Getenv("BANGER_TEST_CYCLES")
	if text == "" {
		return 50
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("BANGER_TEST_CYCLES is %q", text)
	}
	return n
}

// TestLongCycles: whatever is killed at whatever moment of creating and deleting machines, nothing of them is left at the end.
func TestLongCycles(t *testing.T) {
	var b *box
	var killRoot func()
	if asUser() {
		h := newHelpedBox(t)
		b, killRoot = h.box, h.killRoot
	} else {
		b = newRootBox(t)
	}
	b.must("template", "build")
	begin := time.Now()
	b.must("run", "-d", "--name", "whole")
	b.must("rm", "-f", "whole")
	whole := time.Since(begin)
	seed := uint64(begin.UnixNano())
	t.Logf("an undisturbed cycle takes %s; seed %d", whole, seed)
	dice := rand.New(rand.NewPCG(seed, seed))
	made := 0
	rounds := cycles(t)
	for range rounds {
		b.disturbed(dice, whole, killRoot, "run", "-d", "--name", "c")
		if b.banger("exec", "c", "--", "true").code == 0 {
			made++
		}
		// A machine that never came to be cannot be deleted, and one whose deletion was cut off may be gone or not.
		b.disturbed(dice, whole, killRoot, "rm", "-f", "c")
		if b.banger("show", "c").code == 0 {
			b.must("rm", "-f", "c")
		}
	}
	t.Logf("%d of %d machines ran", made, rounds)
	if made == 0 {
		t.Error("every machine died before it ran: this has tested half of it")
	}
	same(t, "VMs", b.must("ps", "-aq"), "")
	b.checkNothingOfVMs()
	b.checkHostClean()
}

// disturbed runs banger, and kills the daemon, or bangerd-root, or both, at some moment of it. How it ends is open.
func (b *box) disturbed(dice *rand.Rand, whole time.Duration, killRoot func(), args ...string) {
	b.t.Helper()
	pid := b.info().PID
	what, at := dice.IntN(3), time.Duration(dice.Int64N(int64(whole)))
	if killRoot == nil {
		what = 0
	}
	done := make(chan result, 1)
	go func() { done <- b.banger(args...) }()
	ended := false
	select {
	case <-done:
		ended = true
	case <-time.After(at):
	}
	if what != 1 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		eventually(b.t, "bangerd is dead", func() bool { return !runs(pid) })
	}
	if what != 0 {
		killRoot()
	}
	if !ended {
		<-done
	}
}

// checkHostClean looks for what VMs may have left outside of the box's directories and network: mounts, block devices,
// cgroups. Only a test that runs alone may ask: others' are found too.
func (b *box) checkHostClean() {
	b.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], b.dir+"/") {
			b.t.Errorf("a mount is left: %s", line)
		}
	}
	names, _ := filepath.Glob("/sys/block/dm-*/dm/name") // no device-mapper, no names
	for _, path := range names {
		if name, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(name), "banger-") {
			b.t.Errorf("a device-mapper device is left: %s", name)
		}
	}
	if os.Getenv(hypervisorVariable) == "" {
		return // on a host of others, cgroups and loops of others are not ours to judge
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, path := range loops {
		file, _ := os.ReadFile(path)
		b.t.Errorf("a loop device is left on %s", file)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/banger*/*", "/sys/fs/cgroup/memory/banger*/*"} {
		groups, _ := filepath.Glob(pattern)
		for _, path := range groups {
			if fi, err := os.Stat(path); err == nil && fi.IsDir() {
				b.t.Errorf("a cgroup is left: %s", path)
			}
		}
	}
}
