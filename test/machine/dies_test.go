package machine

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"banger/api"
)

// dieAt is the variable by which a daemon dies at a point of an operation, and tells of each in its log.
const dieAt = "BANGER_TEST_DIE_AT"

var pointLine = regexp.MustCompile(`msg="point reached" point=("[^"]*"|\S+) dies=(\S+)`)

// reached runs banger with a daemon that dies at the point, and returns the points of that kind of operation that it reached.
func (b *box) reached(kind, at string, args ...string) (points []string, died bool, r result) {
	b.t.Helper()
	b.must("daemon", "stop")
	path := filepath.Join(b.state(), "bangerd.log")
	before, err := os.Stat(path)
	if err != nil {
		b.t.Fatal(err)
	}
	b.env = append(b.env, dieAt+"="+at)
	r = b.banger(args...)
	b.env = b.env[:len(b.env)-1]
	b.must("daemon", "stop") // the client may have started another one that dies
	log, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, m := range pointLine.FindAllStringSubmatch(string(log[before.Size():]), -1) {
		if point := strings.Trim(m[1], `"`); strings.HasPrefix(point, kind+"/") {
			points = append(points, point)
			died = died || m[2] == "true"
		}
	}
	return points, died, r
}

// points are those that a command reaches, which must succeed.
func (b *box) points(kind string, args ...string) []string {
	b.t.Helper()
	points, _, r := b.reached(kind, "nowhere", args...)
	if r.code != 0 || len(points) < 2 {
		b.t.Fatalf("points %v of %v", points, r)
	}
	var once []string
	for _, p := range points {
		if !slices.Contains(once, p) {
			once = append(once, p)
		}
	}
	b.must("daemon", "stop")
	b.t.Logf("points: %v", once)
	return once
}

// dies runs a command whose daemon dies at the point.
func (b *box) dies(point string, args ...string) {
	b.t.Helper()
	kind, _, _ := strings.Cut(point, "/")
	if points, died, r := b.reached(kind, point, args...); !died {
		b.t.Fatalf("the daemon did not die at %s; it passed %v: %v", point, points, r)
	}
}

// settled is a VM when an operation that a crash cut off has been cleaned up or completed.
func (b *box) settled(name string) api.VM {
	b.t.Helper()
	var vm api.VM
	eventually(b.t, name+" is at rest", func() bool {
		vm = b.show(name)
		return vm.State == api.StateStopped || vm.State == api.StateSuspended || vm.State == api.StateRunning && vm.Ready
	})
	return vm
}

// holdings are all that banger has on the host: files, network devices, processes.
func (b *box) holdings() []string {
	b.t.Helper()
	var all []string
	for _, root := range []string{b.state(), b.runtime()} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(path, b.dir+"/")
			switch {
			case d.IsDir() && (name == "s/images" || name == "s/kernels"):
				return fs.SkipDir
			case strings.HasPrefix(name, "s/banger.db-") || strings.HasSuffix(name, ".log") || strings.HasPrefix(name, "s/lost+found"):
				return nil // come and go with the daemon, or are there for a look
			case name == "s/ip_forward.json" || name == "s/told-boot" || strings.HasPrefix(name, "s/ssh/known_hosts") || name == "r/bangerd.sock":
				return nil // goes with the bridge, stays from the first start on, is there while a daemon is
			}
			all = append(all, name)
			return nil
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	for _, link := range b.net.links() {
		if link != "banger0" { // the bridge stays for some seconds after its last guest; other tests await its end
			all = append(all, "device "+link)
		}
	}
	for _, pid := range b.net.processes() {
		line := commandLine(pid)
		program, rest, _ := strings.Cut(line, " ")
		if base := filepath.Base(program); base != "bangerd" {
			id := regexp.MustCompile(`/vms/([a-z2-7]{12})/`).FindString(rest)
			all = append(all, "process "+base+" "+id)
		}
	}
	slices.Sort(all)
	return all
}

// holds compares what banger has on the host with what it had in the same situation when nothing had died.
func (b *box) holds(want []string) {
	b.t.Helper()
	got := b.holdings()
	for _, h := range got {
		if !slices.Contains(want, h) {
			b.t.Errorf("left over: %s", h)
		}
	}
	for _, h := range want {
		if !slices.Contains(got, h) {
			b.t.Errorf("missing: %s", h)
		}
	}
}

// counter is a main command that counts in memory; counts tells that it never went back, and goes on.
const counter = "i=0; while true; do i=$((i+1)); echo $i >/run/count.new; mv /run/count.new /run/count; sleep 0.05; done"

type counts struct {
	boot string
	last int
}

func (c *counts) goOn(b *box, name string) {
	b.t.Helper()
	if c.boot == "" {
		b.guest(name, "n=0; while [ ! -s /run/count ] && [ $n -lt 100 ]; do n=$((n+1)); sleep 0.1; done")
	}
	f := strings.Fields(b.guest(name, "cat /proc/sys/kernel/random/boot_id; i=$(cat /run/count); echo $i; n=0; while [ $(cat /run/count) = $i ] && [ $n -lt 200 ]; do n=$((n+1)); sleep 0.1; done; cat /run/count"))
	if len(f) != 3 {
		b.t.Fatalf("%s said %v", name, f)
	}
	first, err1 := strconv.Atoi(f[1])
	second, err2 := strconv.Atoi(f[2])
	if err1 != nil || err2 != nil || first < c.last || second <= first {
		b.t.Errorf("%s had counted to %d, and went on from %s to %s", name, c.last, f[1], f[2])
	}
	if c.boot != "" && c.boot != f[0] {
		b.t.Errorf("%s has booted: its memory is lost", name)
	}
	c.boot, c.last = f[0], second
}

// TestDaemonDiesInSuspend: wherever the daemon dies in a suspend, or in the start of a suspended VM, the guest goes on as if
// nothing had happened, and nothing is left over.
func TestDaemonDiesInSuspend(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x", "--", "sh", "-c", counter)
	b.guest("x", "echo kept >/run/tmpfs; echo synced >/root/file; sync")
	var c counts
	c.goOn(b, "x")
	suspend := b.points("vm.suspend", "suspend", "x")
	same(t, "state", b.show("x").State, api.StateSuspended)
	suspended := b.holdings()
	start := b.points("vm.start", "start", "x")
	c.goOn(b, "x")
	running := b.holdings()

	check := func(b *box) api.VM {
		vm := b.settled("x")
		switch vm.State {
		case api.StateSuspended:
			b.holds(suspended)
		case api.StateRunning:
			b.holds(running)
			c.goOn(b, "x")
		default:
			b.t.Fatalf("it is %s: %s %+v", vm.State, vm.StopReason, vm.LastError)
		}
		return vm
	}
	back := func(b *box) {
		b.must("start", "x")
		c.goOn(b, "x")
		same(b.t, "files", b.guest("x", "cat /run/tmpfs /root/file"), "kept\nsynced")
		b.holds(running)
	}
	for _, point := range suspend {
		b.sub(point, func(t *testing.T, b *box) {
			b.dies(point, "suspend", "x")
			if check(b).State == api.StateRunning {
				b.must("suspend", "x")
				b.holds(suspended)
			}
			back(b)
		})
	}
	for _, point := range start {
		b.sub(point, func(t *testing.T, b *box) {
			b.must("suspend", "x")
			b.dies(point, "start", "x")
			check(b)
			back(b)
		})
	}
}

// TestDaemonDiesInClone: wherever the daemon dies in the start of a clone, the VM is as it was before, or runs.
func TestDaemonDiesInClone(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("template", "build")
	none := b.holdings()
	b.must("create", "--name", "x")
	x := b.show("x")
	created := b.holdingsWith(x)
	points := b.points("vm.start", "start", "x")
	running := b.holdingsWith(x)
	b.must("rm", "-f", "x")
	b.holds(none)
	for n, point := range points {
		b.sub(point, func(t *testing.T, b *box) {
			name := fmt.Sprintf("c%d", n)
			b.must("create", "--name", name)
			b.dies(point, "start", name)
			vm := b.settled(name)
			if vm.State == api.StateStopped {
				for _, h := range b.holdingsWith(vm) { // once made, its host key is its own for good
					if own := h == "s/vms/ID" || h == "s/vms/ID/v" || h == "s/vms/ID/ssh_host_ed25519_key"; !own && !slices.Contains(created, h) {
						t.Errorf("left over: %s", h)
					}
				}
				b.must("start", name)
				if steps := b.steps(name); !has(steps, "thaw") || has(steps, "guest") {
					t.Errorf("it was booted, not thawed: %v", steps)
				}
			}
			same(t, "holdings", strings.Join(b.holdingsWith(vm), "\n"), strings.Join(running, "\n"))
			same(t, "identity", b.guest(name, "hostname; cat /etc/machine-id"), name+"\n"+vm.Runtime.MachineID)
			b.must("rm", "-f", name)
			b.holds(none)
		})
	}
	b.sub("one that is to go when it stops", func(t *testing.T, b *box) {
		b.dies("vm.start/memory", "run", "--rm", "--name", "y", "--", "true")
		eventually(t, "it is gone", func() bool { return b.must("ps", "-aq") == "" })
		b.holds(none)
	})
}

// holdingsWith are what banger has on the host, with one VM whose id and tap are not told.
func (b *box) holdingsWith(vm api.VM) []string {
	b.t.Helper()
	all := b.holdings()
	for n, h := range all {
		if strings.HasPrefix(h, "device ") && h != "device lo" && h != "device banger0" {
			h = "device of the VM"
		}
		all[n] = strings.ReplaceAll(h, vm.ID, "ID")
	}
	slices.Sort(all)
	return all
}

// TestDaemonDiesInTemplate: wherever the daemon dies while it builds a template, nothing of that is left but what is whole.
func TestDaemonDiesInTemplate(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("ps")
	build := b.points("template.build", "template", "build")
	b.must("run", "--rm", "--", "true") // what stays with the first VM: the bridge
	b.must("template", "prune")
	none := b.holdings()
	for _, point := range build {
		b.sub(point, func(t *testing.T, b *box) {
			b.dies(point, "template", "build")
			var left []api.Template
			decode(t, b.must("template", "list", "--json"), &left)
			same(t, "whole templates", len(left), map[bool]int{true: 1}[point == "template.build/end"])
			if len(left) > 0 { // it was recorded, so it is whole
				b.must("run", "-d", "--name", "x")
				if steps := b.steps("x"); !has(steps, "thaw") || has(steps, "build template") {
					t.Errorf("it was not thawed: %v", steps)
				}
				b.must("rm", "-f", "x")
				b.must("template", "prune")
			}
			b.holds(none)
		})
	}
	b.must("run", "--rm", "--", "true")
}
