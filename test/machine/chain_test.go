package machine

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/api"
)

// TestSuspendChain: suspend, start and write, ten times, and nothing is lost.
func TestSuspendChain(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.live("x")
	for round := range 10 {
		b.guest("x", fmt.Sprintf("echo root %d >>/srv.txt; echo work %[1]d >>/root/work.txt; echo run %[1]d >>/run/run.txt; dd if=/dev/urandom of=/root/data.%[1]d bs=64k count=8 2>/dev/null; sha256sum /root/data.%[1]d >>/root/sums", round))
		acked, count := b.number("x", "cat /run/acked"), b.number("x", "cat /run/count")
		b.must("suspend", "x")
		if round == 4 {
			b.killDaemon()
		}
		b.must("start", "x")
		if now := b.number("x", "cat /run/count"); now < count {
			t.Fatalf("round %d: it had counted to %d, and is at %d", round, count, now)
		}
		b.checkDisk("x", acked)
	}
	for file, word := range map[string]string{"/srv.txt": "root", "/root/work.txt": "work", "/run/run.txt": "run"} {
		var want []string
		for round := range 10 {
			want = append(want, fmt.Sprintf("%s %d", word, round))
		}
		same(t, file, b.guest("x", "cat "+file), strings.Join(want, "\n"))
	}
	b.guest("x", "echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /root/sums >/dev/null")
	b.checkLives("x", 0)
}

// chain is how many files a VM's disks are spread over, whichever has more, by their headers.
func (b *box) chain(name string) int {
	b.t.Helper()
	vm := b.show(name)
	most := 0
	for _, path := range []string{vm.Runtime.SystemOverlay, vm.Runtime.WorkDiskPath} {
		out, err := exec.Command("qemu-img", "info", "-U", "--backing-chain", path).CombinedOutput()
		if err != nil {
			b.t.Fatalf("%v: %s", err, out)
		}
		most = max(most, strings.Count("\n"+string(out), "\nimage: "))
	}
	return most
}

// deepest is what no chain may have more files than.
const deepest = 17

// forks makes n forks of a VM, one after the other, and removes each. It returns how long each took to thaw.
func (b *box) forks(name string, n int) []time.Duration {
	b.t.Helper()
	var took []time.Duration
	for i := range n {
		fork := fmt.Sprintf("%s-fork-%d", name, i)
		b.must("fork", name, "--name", fork)
		took = append(took, b.stepTime(name, "vm.fork", "thaw"))
		same(b.t, "a file in the fork", b.guest(fork, "cat /root/kept"), "kept")
		b.must("rm", "-f", fork)
		if got := b.chain(name); got > deepest {
			b.t.Errorf("after fork %d, %d files are in a chain of %s", i, got, name)
		}
	}
	return took
}

// stepTime is how long a step of a VM's newest operation of a kind took.
func (b *box) stepTime(vm, kind, step string) time.Duration {
	b.t.Helper()
	var ops []api.Operation
	decode(b.t, b.must("operation", "list", "--all", "--json"), &ops)
	id := b.show(vm).ID
	for _, op := range slices.Backward(ops) {
		if op.VMID != id || op.Kind != kind {
			continue
		}
		for _, s := range op.Steps {
			if s.Name == step {
				return time.Duration(s.DurationMS) * time.Millisecond
			}
		}
	}
	b.t.Fatalf("%s has had no step %s of %s", vm, step, kind)
	return 0
}

// TestShortChains: chains are made short while their VM writes, and whatever the daemon does.
func TestShortChains(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.live("src")
	b.guest("src", "echo kept >/root/kept; dd if=/dev/urandom of=/root/large bs=1M count=30 2>/dev/null; sha256sum /root/large >/root/sum; sync")
	b.forks("src", 14)
	b.checkLives("src", 0)
	// Left alone, it is short soon, and nothing of what was copied together is left.
	eventually(t, "the chains of src are short", func() bool { return b.chain("src") < 11 })

	b.forks("src", 3)
	b.must("fork", "src", "--name", "other")
	b.forks("other", 2)
	time.Sleep(2100 * time.Millisecond) // about when the copying begins, if it does; whatever it has come to makes no difference
	b.killDaemon()
	b.guest("other", "echo 3 >/proc/sys/vm/drop_caches; sha256sum -c /root/sum >/dev/null")
	for _, name := range []string{"src", "other"} {
		acked := b.number(name, "cat /run/acked")
		b.must("kill", name)
		b.must("start", name)
		b.checkDisk(name, acked)
		b.guest(name, "sha256sum -c /root/sum >/dev/null")
	}
	b.must("rm", "-f", "src", "other")
	b.checkNothingOfVMs()
	if left := b.layers(); len(left) > 0 {
		t.Errorf("layers left: %v", left)
	}
}

// TestLongForkChain: a hundred forks in a row, and the last is thawed about as fast as the first. Beside each of the last ones stands one
// of a VM that was never forked before, for the machine may be busier by then.
func TestLongForkChain(t *testing.T) {
	b := newBox(t)
	b.live("src")
	b.live("new")
	for _, name := range []string{"src", "new"} {
		b.guest(name, "echo kept >/root/kept")
	}
	first := b.forks("src", 9)
	b.forks("src", 82)
	var last, beside []time.Duration
	for range 9 {
		last, beside = append(last, b.forks("src", 1)...), append(beside, b.forks("new", 1)...)
	}
	median := func(d []time.Duration) time.Duration { d = slices.Clone(d); slices.Sort(d); return d[len(d)/2] }
	t.Logf("thaw of the first forks %v, of the last %v, of the first ones beside these %v; chain of %d files", median(first), median(last), median(beside), b.chain("src"))
	// Promised is 1.5, on a quiet machine; here src's chain is being made short while its last forks thaw, on two busy cores.
	if median(last) > median(beside)*2 {
		t.Errorf("the last forks took %v to thaw, the first ones of another VM %v", last, beside)
	}
	b.checkLives("src", 0)
	b.must("rm", "-f", "src", "new")
	b.checkNothingOfVMs()
	if left := b.layers(); len(left) > 0 {
		t.Errorf("layers left: %v", left)
	}
}
