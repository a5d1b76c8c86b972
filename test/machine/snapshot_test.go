package machine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/api"
)

// counting is a main command that counts in memory and in a file of tmpfs, and fsyncs each number to the work disk.
const counting = `i=0; while true; do i=$((i+1)); echo $i >/run/count.new; mv /run/count.new /run/count; echo $i >/root/last; sync /root/last 2>/dev/null; sleep 0.05; done`

// count is how far it has come.
func (b *box) count(vm string) int {
	b.t.Helper()
	n, err := strconv.Atoi(b.guest(vm, "while [ ! -s /run/count ]; do sleep 0.1; done; cat /run/count"))
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// goesOn waits until it has counted on.
func (b *box) goesOn(vm string) {
	b.t.Helper()
	from := b.count(vm)
	eventually(b.t, vm+" goes on counting", func() bool { return b.count(vm) > from })
}

// who is all that tells one machine from another, as the guest has it, and the clock.
func (b *box) who(vm string) []string {
	b.t.Helper()
	facts := strings.Fields(b.guest(vm, "cat /etc/machine-id /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address; hostname; ip -4 -o addr show eth0 2>/dev/null | awk '{print $4}'; date +%s"))
	clock, err := strconv.ParseInt(facts[len(facts)-1], 10, 64)
	if off := time.Since(time.Unix(clock, 0)); err != nil || off > 3*time.Second || off < -time.Second {
		b.t.Errorf("%s: its clock is off by %v (%v)", vm, off, err)
	}
	return facts[:len(facts)-1]
}

// reaches asserts that the guest's address works.
func (b *box) reaches(vm string) {
	b.t.Helper()
	b.guest(vm, "ping -c 1 -W 10 $(ip route | awk '/^default/ {print $3}') >/dev/null")
}

// files are the entries of one of the state's directories.
func (b *box) files(dir string) []string {
	b.t.Helper()
	entries, err := os.ReadDir(filepath.Join(b.state(), dir))
	if err != nil && !os.IsNotExist(err) {
		b.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// checkNoSnapshots is for a box without VMs: layers are theirs, too.
func (b *box) checkNoSnapshots() {
	b.t.Helper()
	for _, dir := range []string{"snapshots", "layers"} {
		if left := b.files(dir); len(left) > 0 {
			b.t.Errorf("left in %s: %v", dir, left)
		}
	}
}

// TestSnapshot: a VM goes back to where it was, as often as wanted, and stays who it is.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x", "--", "sh", "-c", counting)
	b.guest("x", "echo before >/root/w; echo before >/srv/r; echo before >/run/t; sync")
	b.goesOn("x")
	before := b.who("x")
	same(t, "name", b.must("vm", "snapshot", "create", "x", "one"), "one")
	at := b.count("x")
	b.goesOn("x")
	b.who("x")
	change := "echo after >/root/w; rm /srv/r; echo after >/run/t; echo new >/root/new; sync"
	b.guest("x", change)
	b.fails(1, []string{"running", "--force"}, "vm", "snapshot", "restore", "x", "one")

	asItWas := func(t *testing.T, b *box) {
		t.Helper()
		same(t, "state", b.show("x").State, api.StateRunning)
		if n := b.count("x"); n > at+100 {
			t.Errorf("it has counted to %d, and was at %d", n, at)
		}
		b.goesOn("x")
		same(t, "files", b.guest("x", "cat /root/w /srv/r /run/t; ls /root/new 2>/dev/null || true"), "before\nbefore\nbefore")
		same(t, "identity", fmt.Sprint(b.who("x")), fmt.Sprint(before))
	}
	restore := func(b *box, name string, flags ...string) {
		b.t.Helper()
		b.must(append([]string{"vm", "snapshot", "restore", "x", name}, flags...)...)
	}
	b.sub("running", func(t *testing.T, b *box) {
		b.guest("x", "while [ $(cat /run/count) -lt "+strconv.Itoa(at+150)+" ]; do sleep 0.1; done")
		restore(b, "one", "-f")
		asItWas(t, b)
		b.reaches("x")
	})
	b.sub("again, after the daemon's death", func(t *testing.T, b *box) {
		b.guest("x", change)
		b.killDaemon()
		restore(b, "one", "-f")
		asItWas(t, b)
	})
	b.sub("of what was restored, suspended and stopped", func(t *testing.T, b *box) {
		b.guest("x", "echo two >/root/two")
		b.must("vm", "snapshot", "create", "x", "two")
		b.must("suspend", "x")
		same(t, "made up name", b.must("vm", "snapshot", "create", "x"), "s1")
		restore(b, "one")
		asItWas(t, b)
		same(t, "files of two", b.guest("x", "ls /root/two 2>/dev/null || true"), "")
		b.must("stop", "x")
		restore(b, "s1")
		same(t, "files of s1", b.guest("x", "cat /root/two"), "two")
		b.goesOn("x")
		restore(b, "two", "-f")
		same(t, "files of two", b.guest("x", "cat /root/two"), "two")
	})
	b.sub("sizes go back", func(t *testing.T, b *box) {
		b.must("set", "x", "--memory", "160M", "--cpus", "2", "--disk-size", "512M")
		b.fails(1, []string{"has not taken up", "memory"}, "vm", "snapshot", "create", "x")
		b.must("restart", "x")
		r := b.banger("vm", "snapshot", "restore", "-f", "x", "one")
		same(t, "exit code", r.code, 0)
		for _, words := range []string{"CPUs go back from 2 to 1", "memory goes back from 160M to 128M", "the work disk goes back from 512M to 256M"} {
			if !strings.Contains(r.stderr, words) {
				t.Errorf("not said: %s\n%s", words, r.stderr)
			}
		}
		asItWas(t, b)
		same(t, "CPUs", b.guest("x", "grep -c ^processor /proc/cpuinfo"), "1")
	})
	b.sub("list and show", func(t *testing.T, b *box) {
		var list []api.Snapshot
		decode(t, b.must("vm", "snapshot", "list", "x", "--json"), &list)
		same(t, "snapshots", len(list), 3)
		for _, s := range list {
			if s.UsedBytes < 1<<20 || s.UsedBytes > 200<<20 {
				t.Errorf("snapshot %s takes %d bytes", s.Name, s.UsedBytes)
			}
		}
		same(t, "names", fmt.Sprint(b.show("x").Snapshots), "[one two s1]")
	})
	b.sub("delete", func(t *testing.T, b *box) {
		b.must("vm", "snapshot", "delete", "x", "two", "s1")
		same(t, "snapshots", len(b.files("snapshots")), 1)
		// Those of one, and those that the restored VM has on top are no layers.
		same(t, "layers", len(b.files("layers")), 2)
		b.goesOn("x")
		b.must("stop", "x")
		b.fails(1, []string{"one", "--force"}, "rm", "x")
		b.must("prune", "-f")
		same(t, "state", b.show("x").State, api.StateStopped)
		b.must("rm", "-f", "x")
		b.checkNothingOfVMs()
		b.checkNoSnapshots()
	})
}

// TestRunFromSnapshot: each machine that goes on from a snapshot is one of its own.
func TestRunFromSnapshot(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x", "--", "sh", "-c", counting)
	b.guest("x", "echo data >/root/w; echo data >/run/t")
	at := b.count("x")
	b.must("vm", "snapshot", "create", "x")
	same(t, "stdout", b.must("run", "--snapshot", "x/s1", "--name", "y", "--", "cat", "/root/w", "/run/t"), "data\ndata")
	b.must("create", "--snapshot", "x/s1", "--name", "z")
	same(t, "state", b.show("z").State, api.StateSuspended)
	b.killDaemon()
	b.must("start", "z")
	b.must("rm", "-f", "x")
	same(t, "snapshots", len(b.files("snapshots")), 0)
	b.must("run", "-d", "--name", "x2")
	seen := map[string]string{}
	for _, name := range []string{"y", "z", "x2"} {
		vm := b.show(name)
		facts := append(b.who(name), vm.Runtime.SSHHostKey, b.guest(name, "cat /proc/sys/kernel/random/uuid"))
		for _, fact := range facts {
			if other, taken := seen[fact]; taken {
				t.Errorf("%s and %s share %s", name, other, fact)
			}
			seen[fact] = name
		}
		same(t, "machine id", facts[0], vm.Runtime.MachineID)
		b.reaches(name)
		if name == "x2" {
			continue
		}
		b.goesOn(name)
		if b.count(name) < at {
			t.Errorf("%s has forgotten how far it had counted", name)
		}
		same(t, "files", b.guest(name, "cat /root/w /run/t; echo "+name+" >/root/w; sync"), "data\ndata")
	}
	same(t, "y's own file", b.guest("y", "cat /root/w"), "y")
	b.must("restart", "y")
	same(t, "y's own file after a boot", b.guest("y", "cat /root/w"), "y")
	b.must("rm", "-f", "y", "z", "x2")
	b.checkNothingOfVMs()
	b.checkNoSnapshots()
}

// TestSnapshotElsewhere: what does not thaw here, or is damaged, changes nothing.
func TestSnapshotElsewhere(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x")
	b.must("vm", "snapshot", "create", "x")
	b.guest("x", "echo now >/run/t")
	files, err := filepath.Glob(filepath.Join(b.state(), "snapshots", "*", "suspended.json"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(text, &record); err != nil {
		t.Fatal(err)
	}
	record["stamp"].([]any)[0].(map[string]any)["value"] = "another one"
	changed, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], changed, 0o600); err != nil {
		t.Fatal(err)
	}
	b.fails(1, []string{"another one"}, "vm", "snapshot", "restore", "-f", "x", "s1")
	b.fails(125, []string{"another one"}, "run", "--snapshot", "x/s1", "--", "true")
	if err := os.WriteFile(files[0], text, 0o600); err != nil {
		t.Fatal(err)
	}
	pages := filepath.Join(filepath.Dir(files[0]), "pages")
	damaged, err := os.ReadFile(pages)
	if err != nil {
		t.Fatal(err)
	}
	damaged[len(damaged)/2] ^= 1
	if err := os.WriteFile(pages, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	b.fails(1, []string{"damaged"}, "vm", "snapshot", "restore", "-f", "x", "s1")
	same(t, "state", b.show("x").State, api.StateRunning)
	same(t, "memory", b.guest("x", "cat /run/t"), "now")
	same(t, "VMs", len(strings.Fields(b.must("ps", "-aq"))), 1)
}

// TestLongDaemonDiesInSnapshot: wherever the daemon dies in the making of a snapshot the guest goes on, and there is a whole snapshot or
// none; wherever it dies in a restore there is the VM as it was, if only as after a power cut, or the restored one.
func TestLongDaemonDiesInSnapshot(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x", "--", "sh", "-c", counter)
	b.guest("x", "echo then >/run/t; echo then >/root/w; sync")
	var c counts
	c.goOn(b, "x")
	create := b.points("vm.snapshot", "vm", "snapshot", "create", "x", "keep")
	for _, point := range create {
		b.sub(point, func(t *testing.T, b *box) {
			b.dies(point, "vm", "snapshot", "create", "x", "tried")
			same(t, "state", b.settled("x").State, api.StateRunning)
			c.goOn(b, "x")
			if made := b.show("x").Snapshots; len(made) > 1 {
				b.must("vm", "snapshot", "restore", "-f", "x", "tried")
				c.last = 0 // it goes back
				c.goOn(b, "x")
				b.must("vm", "snapshot", "delete", "x", "tried")
			}
			same(t, "snapshots", len(b.files("snapshots")), 1)
		})
	}
	restore := b.points("vm.restore", "vm", "snapshot", "restore", "-f", "x", "keep")
	b.must("ps") // with a daemon
	running := b.holdings()
	// How a thaw is cut off between these is TestDaemonDiesInSuspend's.
	of := func(points []string, kind string, names ...string) (out []string) {
		for _, p := range points {
			if slices.Contains(names, strings.TrimPrefix(p, kind+"/")) {
				out = append(out, p)
			}
		}
		if len(out) != len(names) {
			t.Fatalf("points %v, want %v", out, names)
		}
		return out
	}
	restore = of(restore, "vm.restore", "prepare", "prepared", "killed", "recorded", "image", "thaw", "devices", "used", "personalise", "end")
	for _, point := range restore {
		b.sub(point, func(t *testing.T, b *box) {
			b.guest("x", "echo now >/run/t; echo now >/root/w; sync")
			b.dies(point, "vm", "snapshot", "restore", "-f", "x", "keep")
			vm := b.settled("x")
			if vm.State != api.StateRunning {
				b.must("start", "x")
			}
			switch got := b.guest("x", "cat /root/w /run/t 2>/dev/null || true"); {
			case got == "then\nthen": // restored
			case got == "now\nnow" && vm.State == api.StateRunning: // as it was
			case got == "now" && vm.State == api.StateStopped: // as after a power cut
			default:
				t.Errorf("it was %s, and has %q", vm.State, got)
			}
			b.must("vm", "snapshot", "restore", "-f", "x", "keep")
			same(t, "files", b.guest("x", "cat /root/w /run/t"), "then\nthen")
			same(t, "number of holdings", len(b.holdings()), len(running))
		})
	}
	b.must("suspend", "x")
	for _, point := range of(restore, "vm.restore", "prepared", "killed", "recorded", "thaw", "used") {
		b.sub(point+" of a suspended one", func(t *testing.T, b *box) {
			b.dies(point, "vm", "snapshot", "restore", "x", "keep")
			vm := b.settled("x")
			if vm.State != api.StateRunning {
				same(t, "state", vm.State, api.StateSuspended)
				b.must("start", "x")
			}
			b.guest("x", "test $(cat /run/t) = then")
			b.must("suspend", "x")
		})
	}
	from := b.points("vm.start", "run", "-d", "--snapshot", "x/keep", "--name", "y")
	b.must("rm", "-f", "y")
	for n, point := range of(from, "vm.start", "thaw", "devices", "used", "personalise", "identity", "end") {
		b.sub(point+" from a snapshot", func(t *testing.T, b *box) {
			name := fmt.Sprintf("y%d", n)
			b.must("create", "--snapshot", "x/keep", "--name", name)
			b.dies(point, "start", name)
			if r := b.banger("show", name); r.code != 0 { // it had run, and was nobody yet
				return
			}
			if vm := b.settled(name); vm.State != api.StateRunning {
				b.must("start", name)
			}
			same(t, "name", b.guest(name, "hostname; cat /run/t"), name+"\nthen")
			b.must("rm", "-f", name)
		})
	}
	b.must("rm", "-f", "x")
	b.checkNothingOfVMs()
	b.checkNoSnapshots()
}
