package machine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"banger/api"
	"banger/internal/network"
)

// steps are the names of the steps of a VM's newest start.
func (b *box) steps(vm string) []string {
	b.t.Helper()
	var ops []api.Operation
	decode(b.t, b.must("operation", "list", "--all", "--json"), &ops)
	id := b.show(vm).ID
	for i := len(ops) - 1; i >= 0; i-- {
		if ops[i].VMID == id && ops[i].Kind == "vm.start" {
			var names []string
			for _, s := range ops[i].Steps {
				names = append(names, s.Name)
			}
			return names
		}
	}
	return nil
}

func has(list []string, want string) bool {
	for _, s := range list {
		if s == want {
			return true
		}
	}
	return false
}

// TestClones: twenty machines thawed from one template, and five forks of one of them, are as many machines: to themselves, by
// their clocks, and to who listens on the wire.
func TestClones(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	beyond := b.net.uplink()
	b.must("template", "build")
	var templates []api.Template
	decode(t, b.must("template", "list", "--json"), &templates)
	c := b.capture()
	var vms []api.VM
	facts := map[string]string{}
	meet := func(name string) {
		vms = append(vms, b.show(name))
		b.checkOwn(name, facts)
		b.checkClock(name)
	}
	b.must("run", "-d", "--name", "c0", "--", "ping", "-i", "0.2", uplinkBeyond)
	meet("c0")
	for i := range 19 {
		name := fmt.Sprint("c", i+1)
		b.must("run", "-d", "--name", name)
		if steps := b.steps(name); !has(steps, "thaw") || has(steps, "guest") {
			t.Fatalf("%s was not thawed: %v", name, steps)
		}
		meet(name)
		b.guest(name, "ping -c 1 -W 5 "+uplinkBeyond+" >/dev/null")
	}
	b.must("fork", "c0", "--name", "f1")
	b.must("fork", "c0", "--count", "4", "--name", "f")
	for _, name := range []string{"f1", "f-1", "f-2", "f-3", "f-4"} {
		meet(name)
		b.guest(name, "ping -c 1 -W 5 "+uplinkBeyond+" >/dev/null")
	}
	b.checkClock("c0")
	b.checkFrames(c.end(t), network.MACFor(templates[0].ID), vms)
	_ = beyond
	b.checkIntroduced()
	b.must(append([]string{"rm", "-f"}, strings.Fields(b.must("ps", "-aq"))...)...)
	b.checkNothingOfVMs()
}

// checkIntroduced wants every guest so far to have been told once who it is, with the greeting.
func (b *box) checkIntroduced() {
	b.t.Helper()
	log, err := os.ReadFile(filepath.Join(b.state(), "bangerd.log"))
	if n := strings.Count(string(log), "did not take its introduction"); err != nil || n > 0 {
		b.t.Errorf("%d guests had to be told again who they are (%v)", n, err)
	}
}

// checkOwn compares all that no two machines may share with what was seen before.
func (b *box) checkOwn(name string, seen map[string]string) {
	b.t.Helper()
	vm := b.show(name)
	f := strings.Fields(b.guest(name, "cat /etc/machine-id /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address; hostname; "+
		"cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; for i in 1 2 3; do cat /proc/sys/kernel/random/uuid; done; ip -4 -o addr show dev eth0"))
	if len(f) < 12 {
		b.t.Fatalf("%s said %v", name, f)
	}
	same(b.t, name+": machine id", f[0], vm.Runtime.MachineID)
	same(b.t, name+": MAC", f[2], vm.Runtime.MAC)
	same(b.t, name+": hostname", f[3], name)
	same(b.t, name+": host key", f[4], strings.Fields(vm.Runtime.SSHHostKey)[1])
	if address, _, _ := strings.Cut(f[11], "/"); address != vm.Runtime.GuestIP {
		b.t.Errorf("%s: its address is %s, want %s", name, address, vm.Runtime.GuestIP)
	}
	for n, what := range []string{"machine id", "boot id", "MAC", "hostname", "host key", "uuid", "uuid", "uuid", "", "", "", "address"} {
		if other, taken := seen[what+f[n]]; taken && what != "" {
			b.t.Errorf("%s and %s share their %s: %s", name, other, what, f[n])
		}
		seen[what+f[n]] = name
	}
}

// checkClock wants a guest's clock to be right.
func (b *box) checkClock(name string) {
	b.t.Helper()
	if off := b.clockOff(name); off > clockBound {
		b.t.Errorf("the clock of %s is off by %v", name, off)
	}
}

// TestSuspend: what runs in a guest goes on, whatever becomes of the daemon meanwhile.
func TestSuspend(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x", "--", "sh", "-c", "i=0; while true; do i=$((i+1)); echo $i >/run/count.new; mv /run/count.new /run/count; sleep 0.1; done")
	b.guest("x", "echo kept >/run/tmpfs; while [ ! -s /run/count ]; do sleep 0.1; done")
	boot := b.guest("x", "cat /proc/sys/kernel/random/boot_id")
	last := 0
	for round := range 4 {
		b.guest("x", fmt.Sprintf("echo %d >>/root/rounds; sync", round))
		b.must("suspend", "x")
		vm := b.show("x")
		same(t, "state", vm.State, api.StateSuspended)
		b.checkVMMsGone(vm)
		if round == 1 {
			b.killDaemon()
		}
		b.must("start", "x")
		if steps := b.steps("x"); !has(steps, "thaw") {
			t.Fatalf("it was not thawed: %v", steps)
		}
		count, err := strconv.Atoi(b.guest("x", "cat /run/count"))
		if err != nil || count < last {
			t.Fatalf("it had counted to %d, and is at %d now (%v)", last, count, err)
		}
		last = count
		eventually(t, "it goes on counting", func() bool {
			n, _ := strconv.Atoi(b.guest("x", "cat /run/count"))
			return n > last
		})
		same(t, "boot id", b.guest("x", "cat /proc/sys/kernel/random/boot_id"), boot)
		same(t, "tmpfs", b.guest("x", "cat /run/tmpfs"), "kept")
	}
	same(t, "rounds", b.guest("x", "cat /root/rounds"), "0\n1\n2\n3")

	b.sub("a command that somebody waits for", func(t *testing.T, b *box) {
		done := make(chan result)
		go func() { done <- b.banger("exec", "x", "--", "sh", "-c", "echo $$ >/run/waits; exec sleep 1000") }()
		b.guest("x", "while [ ! -s /run/waits ]; do sleep 0.1; done")
		b.must("suspend", "x")
		if r := <-done; r.code != 125 || !strings.Contains(r.stderr, "x was suspended, which has cut this call off") {
			t.Errorf("exit code %d: %s", r.code, r.stderr)
		}
		b.must("start", "x")
	})
	b.sub("refusals, stop and delete", func(t *testing.T, b *box) {
		b.must("suspend", "x")
		b.fails(1, []string{"suspended"}, "set", "x", "--memory", "192M")
		b.must("stop", "x")
		same(t, "state", b.show("x").State, api.StateStopped)
		b.must("start", "x")
		b.must("suspend", "x")
		b.must("rm", "-f", "x")
		b.checkNothingOfVMs()
	})
}

// TestSuspendedElsewhere: a state that does not go on here is kept, and both ways out are named.
func TestSuspendedElsewhere(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x")
	b.guest("x", "echo disk >/root/f; echo memory >/run/tmpfs")
	b.must("suspend", "x")
	file := filepath.Join(b.vmDir(b.show("x")), "frozen", "suspended.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(text, &record); err != nil {
		t.Fatal(err)
	}
	facts, ok := record["stamp"].([]any)
	if !ok || len(facts) == 0 {
		t.Fatalf("no stamp in %s", text)
	}
	facts[0].(map[string]any)["value"] = "another one"
	changed, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	kept := b.holdings()
	b.fails(1, []string{"another one", "bring back", "--discard-memory"}, "start", "x")
	same(t, "state", b.show("x").State, api.StateSuspended)
	b.holds(kept)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	b.must("start", "x")
	same(t, "tmpfs", b.guest("x", "cat /run/tmpfs"), "memory")
	b.must("suspend", "x")

	b.sub("damaged", func(t *testing.T, b *box) {
		for _, name := range []string{"pages", "device"} {
			path := filepath.Join(filepath.Dir(file), name)
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, path, whole[:len(whole)/2])
			b.fails(1, []string{"--discard-memory"}, "start", "x")
			same(t, "state", b.show("x").State, api.StateSuspended)
			b.holds(kept)
			overwrite(t, path, whole)
		}
		b.must("start", "x")
		same(t, "tmpfs", b.guest("x", "cat /run/tmpfs"), "memory")
		b.must("suspend", "x")
	})
	b.must("start", "--discard-memory", "x")
	same(t, "file", b.guest("x", "cat /root/f"), "disk")
	b.must("rm", "-f", "x")
	b.checkNothingOfVMs()
}

// TestDamagedTemplate: the start warns, boots, and the next one thaws a new template.
func TestDamagedTemplate(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("template", "build")
	files, err := filepath.Glob(filepath.Join(b.state(), "templates", "*", "device"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	// Beside and renamed: the file may be another box's too.
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, files[0]+".new", text[:100])
	if err := os.Rename(files[0]+".new", files[0]); err != nil {
		t.Fatal(err)
	}
	r := b.banger("run", "--name", "x", "--", "echo", "runs")
	same(t, "exit code", r.code, 0)
	same(t, "stdout", r.stdout, "runs\n")
	if !strings.Contains(r.stderr, "did not thaw") {
		t.Errorf("no warning: %s", r.stderr)
	}
	b.must("run", "--rm", "--name", "y", "--", "true")
	b.must("run", "-d", "--name", "z")
	if steps := b.steps("z"); !has(steps, "thaw") || has(steps, "guest") {
		t.Errorf("the new template was not thawed: %v", steps)
	}
}

// TestPause: a paused VM stands still and keeps everything.
func TestPause(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x")
	b.must("pause", "x")
	same(t, "state", b.show("x").State, api.StatePaused)
	b.fails(125, []string{"paused", "unpause"}, "exec", "x", "--", "true")
	b.killDaemon()
	same(t, "state after the daemon's death", b.show("x").State, api.StatePaused)
	b.must("unpause", "x")
	same(t, "uname", b.guest("x", "uname -s"), "Linux")
	b.must("pause", "x")
	b.must("stop", "x")
	b.must("rm", "x")
	b.checkNothingOfVMs()
}

// TestTakenDNSPort: a start that fails by the network says so, and blames no template.
func TestTakenDNSPort(t *testing.T) {
	t.Parallel()
	b := newBox(t, setting("dns_address", ":5353"))
	b.must("template", "build")
	before := b.must("template", "list", "--json")
	taken := b.net.listenUDP("0.0.0.0:5353")
	r := b.fails(125, []string{"5353"}, "run", "--rm", "--name", "x", "--", "true")
	if strings.Contains(r.stderr, "template") {
		t.Errorf("the template is blamed: %s", r.stderr)
	}
	_ = taken.Close()
	same(t, "templates", b.must("template", "list", "--json"), before)
	b.must("run", "-d", "--name", "x")
	if steps := b.steps("x"); !has(steps, "thaw") || has(steps, "guest") {
		t.Errorf("it was not thawed: %v", steps)
	}
	b.must("rm", "-f", "x")
	b.checkNothingOfVMs()
}
