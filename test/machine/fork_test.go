package machine

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/api"
)

// life is what a guest does all the time: it counts in memory, writes records of which each is on disk before
// it is acknowledged, and holds a file open that has no name any more.
const life = `
echo kept >/run/tmpfs
echo secret >/root/open; exec 3</root/open; rm /root/open
(i=0; while :; do i=$((i+1)); echo $i >/run/count.new; mv /run/count.new /run/count; sleep 0.5; done) &
(i=0; while :; do i=$((i+1)); printf '%d\n' $i | dd of=/root/records oflag=append conv=notrunc,fsync 2>/dev/null && echo $i >/run/acked.new && mv /run/acked.new /run/acked; sleep 0.5; done) &
(while [ ! -e /run/go ]; do sleep 1; done; cat <&3 >/run/opened.new; mv /run/opened.new /run/opened) &
wait`

// live starts a VM that lives.
func (b *box) live(name string, args ...string) {
	b.t.Helper()
	b.must(append(append([]string{"run", "-d", "--name", name}, args...), "--", "sh", "-c", life)...)
	eventually(b.t, name+" writes", func() bool { return b.number(name, "cat /run/acked") > 0 })
}

// number is what a command in a guest prints; 0 if that is none.
func (b *box) number(vm, line string) int {
	n, _ := strconv.Atoi(strings.TrimSpace(b.banger("exec", vm, "--", "sh", "-c", line).stdout))
	return n
}

// checkLives checks that a guest goes on with its life, and has all records up to acked and those that it knows of itself.
func (b *box) checkLives(vm string, acked int) {
	b.t.Helper()
	last := b.number(vm, "cat /run/count")
	eventually(b.t, vm+" goes on counting", func() bool { return b.number(vm, "cat /run/count") > last })
	same(b.t, vm+": tmpfs", b.guest(vm, "cat /run/tmpfs"), "kept")
	acked = max(acked, b.number(vm, "cat /run/acked"))
	b.checkDisk(vm, acked)
}

// checkDisk reads the records from the disk: none up to acked is missing, and no file system has found an error.
func (b *box) checkDisk(vm string, acked int) {
	b.t.Helper()
	records := strings.Fields(b.guest(vm, "echo 3 >/proc/sys/vm/drop_caches; cat /root/records"))
	for n := range acked {
		if n >= len(records) || records[n] != strconv.Itoa(n+1) {
			b.t.Errorf("%s: record %d of %d is missing or wrong; there are %d", vm, n+1, acked, len(records))
			break
		}
	}
	same(b.t, vm+": errors of file systems", strings.Trim(b.guest(vm, "cat /sys/fs/ext4/*/errors_count"), "0\n"), "")
	if got := b.guest(vm, "dmesg | grep -iE 'ext4-fs (error|warning)|I/O error|remount' || true"); got != "" {
		b.t.Errorf("%s: its kernel says %s", vm, got)
	}
	if got := b.guest(vm, "grep -E ' (/|/root) ext4 ro' /proc/mounts || true"); got != "" {
		b.t.Errorf("%s: read-only: %s", vm, got)
	}
}

// identity is all that no two machines may share.
func (b *box) identity(name string) map[string]string {
	b.t.Helper()
	vm := b.show(name)
	out := map[string]string{}
	for key, line := range map[string]string{
		"machine id": "cat /etc/machine-id", "boot id": "cat /proc/sys/kernel/random/boot_id", "hostname": "hostname",
		"MAC": "cat /sys/class/net/eth0/address", "address": "ip -4 -o addr show dev eth0", "host key": "cat /etc/ssh/ssh_host_ed25519_key.pub",
	} {
		out[key] = b.guest(name, line)
	}
	for n, uuid := range strings.Fields(b.guest(name, "for i in 1 2 3; do cat /proc/sys/kernel/random/uuid; done")) {
		out[fmt.Sprint("uuid ", n)] = uuid
	}
	same(b.t, name+": hostname", out["hostname"], name)
	same(b.t, name+": machine id", out["machine id"], vm.Runtime.MachineID)
	same(b.t, name+": MAC", out["MAC"], vm.Runtime.MAC)
	if vm.Spec.Net == api.NetBridge && !strings.Contains(out["address"], vm.Runtime.GuestIP+"/") {
		b.t.Errorf("%s: its address is %s, want %s", name, out["address"], vm.Runtime.GuestIP)
	}
	if words := strings.Fields(out["host key"]); len(words) < 2 || !strings.HasPrefix(vm.Runtime.SSHHostKey, words[0]+" "+words[1]) {
		b.t.Errorf("%s: its host key is %s, want %s", name, out["host key"], vm.Runtime.SSHHostKey)
	}
	return out
}

// checkNothingShared wants every fact of each VM to be its own.
func (b *box) checkNothingShared(names ...string) {
	b.t.Helper()
	seen := map[string]string{}
	for _, name := range names {
		for what, fact := range b.identity(name) {
			if strings.HasPrefix(what, "uuid") {
				what = "uuid"
			}
			if what == "address" && b.show(name).Spec.Net != api.NetBridge {
				continue // the same in every network of one
			}
			if other, taken := seen[what+fact]; taken {
				b.t.Errorf("%s and %s share their %s: %s", name, other, what, fact)
			}
			seen[what+fact] = name
		}
	}
}

// clockBound is how far a guest's clock may be off.
const clockBound = 50 * time.Millisecond

// staNano is STA_NANO of linux/timex.h.
const staNano = 0x2000

// clockOff is how far a guest's clock is off, at least: what the round trips leave possible. It asks until they prove that it is
// within the bound, but on a busy machine no answer may be that fast.
func (b *box) clockOff(vm string) time.Duration {
	b.t.Helper()
	low, high := time.Duration(math.MinInt64), time.Duration(math.MaxInt64)
	for n := 0; n < 8 && (low < -clockBound || high > clockBound); n++ {
		begin := time.Now()
		text := b.guest(vm, "if date +%N | grep -q '^[0-9]'; then echo 8192; date '+%s %N'; else adjtimex | grep -E 'status|time.tv_(sec|usec)' | tr -dc '0-9\n'; fi")
		end := time.Now()
		words := strings.Fields(text)
		if len(words) != 3 {
			b.t.Fatalf("the clock of %s: %q", vm, text)
		}
		status, _ := strconv.ParseInt(words[0], 10, 64)
		sec, _ := strconv.ParseInt(words[1], 10, 64)
		frac, _ := strconv.ParseInt(words[2], 10, 64)
		if status&staNano == 0 { // the kernel counts microseconds
			frac *= 1000
		}
		at := time.Unix(sec, frac)
		low, high = max(low, at.Sub(end)), min(high, at.Sub(begin))
	}
	b.t.Logf("%s: its clock is ahead by %v to %v", vm, low, high)
	return max(low, -high, 0)
}

func (b *box) layers() []string {
	b.t.Helper()
	files, err := filepath.Glob(filepath.Join(b.state(), "layers", "*"))
	if err != nil {
		b.t.Fatal(err)
	}
	return files
}

// TestFork: forks go on from where their source is, and are machines of their own.
func TestFork(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.live("src")
	before := b.identity("src")
	acked := b.number("src", "cat /run/acked")
	same(t, "names", b.must("fork", "src", "--name", "one"), "one")
	b.checkLives("one", acked)
	b.guest("one", "touch /run/go; while [ ! -e /run/opened ]; do sleep 0.05; done")
	same(t, "the open file", b.guest("one", "cat /run/opened"), "secret")
	same(t, "what the fork did, in the source", b.guest("src", "ls /run/go 2>/dev/null || echo none"), "none")
	same(t, "main of the fork", b.show("one").Main, nil)

	acked = b.number("one", "cat /run/acked")
	b.must("fork", "one", "--name", "two")
	b.checkLives("two", acked)
	acked = b.number("src", "cat /run/acked")
	same(t, "names", b.must("fork", "src", "--count", "5", "--name", "many"), "many-1\nmany-2\nmany-3\nmany-4\nmany-5")
	b.checkLives("many-1", acked)
	b.checkLives("many-5", acked)
	b.checkLives("src", acked)
	b.checkNothingShared("src", "one", "two", "many-1", "many-3", "many-5")
	after := b.identity("src")
	for what, fact := range before {
		if !strings.HasPrefix(what, "uuid") {
			same(t, "the source's "+what, after[what], fact)
		}
	}
	same(t, "ping between forks", b.guest("many-1", "ping -c 1 -W 5 "+b.show("src").Runtime.GuestIP+" >/dev/null && echo answered || echo isolated"), "isolated")

	b.must("rm", "-f", "many-2", "two", "many-3") // in any order
	b.sub("power cut", func(t *testing.T, b *box) {
		acked := b.number("src", "cat /run/acked")
		b.must("fork", "src", "--name", "cut")
		b.must("kill", "cut")
		b.must("start", "cut")
		b.checkDisk("cut", acked)
		acked = b.number("one", "cat /run/acked")
		b.must("kill", "one")
		b.must("start", "one")
		b.checkDisk("one", acked)
		b.must("fork", "one", "--name", "booted")
		b.checkDisk("booted", acked)
		b.checkNothingShared("one", "booted", "cut")
	})
	b.sub("suspended fork", func(t *testing.T, b *box) {
		b.must("suspend", "many-5")
		b.fails(1, []string{"suspended", "banger vm start many-5"}, "fork", "many-5")
		b.must("start", "many-5")
		b.checkLives("many-5", 0)
	})
	b.sub("paused source", func(t *testing.T, b *box) {
		b.must("pause", "src")
		b.must("fork", "src", "--name", "awake")
		same(t, "state of the source", b.show("src").State, api.StatePaused)
		b.checkLives("awake", 0)
		b.must("unpause", "src")
		b.checkLives("src", 0)
	})
	// No layer is left at the end.
	for _, names := range [][]string{{"src"}, {"many-1", "booted"}, {"one"}} {
		b.must(append([]string{"rm", "-f"}, names...)...)
	}
	b.checkLives("many-4", 0)
	b.must("rm", "-f", "many-4", "many-5", "awake", "cut")
	b.checkNothingOfVMs()
	if left := b.layers(); len(left) > 0 {
		t.Errorf("layers left: %v", left)
	}
}

// TestForkClock: ten forks leave their source's clock right, and their own.
func TestForkClock(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "src")
	for n := range 10 {
		b.must("fork", "src", "--name", fmt.Sprint("f", n))
		if off := b.clockOff(fmt.Sprint("f", n)); off > 50*time.Millisecond {
			t.Errorf("the clock of fork %d is off by %v", n, off)
		}
	}
	if off := b.clockOff("src"); off > 50*time.Millisecond {
		t.Errorf("the source's clock is off by %v", off)
	}
}

// TestForkRefused: what cannot be is refused before anything is made.
func TestForkRefused(t *testing.T) {
	t.Parallel()
	b := newBox(t, setting("uid_count", "3"))
	b.must("run", "-d", "--name", "src")
	b.fails(1, []string{"uids"}, "fork", "src", "--count", "3")
	same(t, "VMs", b.must("ps", "-a", "-q"), b.show("src").ID)
	b.must("fork", "src", "--count", "2", "--name", "f")
	b.must("rm", "-f", "src", "f-1", "f-2")
	b.checkNothingOfVMs()
	if left := b.layers(); len(left) > 0 {
		t.Errorf("layers left: %v", left)
	}
	entries, err := os.ReadDir(filepath.Join(b.state(), "tmp"))
	if err != nil || len(entries) > 0 {
		t.Errorf("left in tmp: %v, %v", entries, err)
	}
}
