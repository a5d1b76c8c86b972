package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/api"
)

// pooled returns the clones that wait in the pool once there are so many.
func (b *box) pooled(count int) []api.VM {
	b.t.Helper()
	var vms []api.VM
	eventually(b.t, fmt.Sprintf("%d clones wait in the pool", count), func() bool {
		if b.info().PoolReady != count {
			return false
		}
		decode(b.t, b.must("ps", "-a", "--json", "--filter", "state=pooled"), &vms)
		return len(vms) == count
	})
	return vms
}

func (b *box) oomScore(vm api.VM) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", b.vmm(vm)))
	if err != nil {
		b.t.Error(err)
	}
	return strings.TrimSpace(string(text))
}

// TestPool: clones that are there before anybody asks, and are their user's from then on.
func TestPool(t *testing.T) {
	t.Parallel()
	b := newBox(t, setting("pool", "2"))
	t.Cleanup(func() { // the box looks for what is left
		b.banger("daemon", "stop")
		b.env = append(b.env, "BANGER_POOL=0")
	})
	b.must("template", "build")
	waiting := b.pooled(2)
	ids := map[string]bool{}
	for _, vm := range waiting {
		ids[vm.ID] = true
		same(t, "oom_score_adj in the pool", b.oomScore(vm), "900")
	}
	same(t, "VMs that are listed", b.must("ps", "-aq"), "")

	b.sub("two at once take two", func(t *testing.T, b *box) {
		var both sync.WaitGroup
		for _, name := range []string{"one", "two"} {
			both.Go(func() {
				if r := b.banger("run", "-d", "--name", name); r.code != 0 {
					t.Error(r)
				}
			})
		}
		both.Wait()
		seen := map[string]string{}
		for _, name := range []string{"one", "two"} {
			vm := b.show(name)
			if !ids[vm.ID] {
				t.Errorf("%s is none of those that waited", name)
			}
			same(t, "oom_score_adj of one that was taken", b.oomScore(vm), "500")
			begin := time.Now()
			facts := strings.Fields(b.guest(name, "cat /etc/machine-id /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid /sys/class/net/eth0/address; hostname; cat /etc/hostname; date +%s"))
			if len(facts) != 7 {
				t.Fatalf("%s said %v", name, facts)
			}
			same(t, "machine id", facts[0], vm.Runtime.MachineID)
			same(t, "MAC", facts[3], vm.Runtime.MAC)
			same(t, "hostname", facts[4], name)
			same(t, "/etc/hostname", facts[5], name)
			clock, err := strconv.ParseInt(facts[6], 10, 64)
			if at := time.Unix(clock, 0); err != nil || at.Before(begin.Add(-time.Second)) || at.After(time.Now()) {
				t.Errorf("%s: its clock says %s, and it is %s (%v)", name, at, begin, err)
			}
			for what, fact := range map[string]string{
				"machine id": facts[0], "boot id": facts[1], "random uuid": facts[2], "MAC": facts[3],
				"host key": vm.Runtime.SSHHostKey, "address": vm.Runtime.GuestIP,
			} {
				if other, taken := seen[what+fact]; taken {
					t.Errorf("%s and %s share their %s: %s", name, other, what, fact)
				}
				seen[what+fact] = name
			}
			if out := b.guest(name, "nslookup "+name+".vm"); !strings.Contains(out, vm.Runtime.GuestIP) {
				t.Errorf("%s.vm is not %s: %s", name, vm.Runtime.GuestIP, out)
			}
			known, err := os.ReadFile(filepath.Join(b.state(), "ssh", "known_hosts"))
			if line := name + ".vm," + vm.Runtime.GuestIP + " " + vm.Runtime.SSHHostKey + "\n"; err != nil || !strings.Contains(string(known), line) {
				t.Errorf("known_hosts has no %q (%v):\n%s", line, err, known)
			}
			same(t, "host key", strings.TrimSpace(b.guest(name, "cat /etc/ssh/ssh_host_ed25519_key.pub")), vm.Runtime.SSHHostKey)
		}
	})

	b.sub("refilled; the daemon's death and a member's", func(t *testing.T, b *box) {
		waiting := b.pooled(2)
		b.killDaemon()
		for _, vm := range b.pooled(2) {
			if vm.ID != waiting[0].ID && vm.ID != waiting[1].ID {
				t.Errorf("%s was not in the pool before the daemon died", vm.ID)
			}
		}
		// Dead while the daemon is away, and dead unnoticed when it is to be taken.
		info := b.info()
		if err := syscall.Kill(info.PID, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		for _, vm := range waiting {
			if err := syscall.Kill(b.vmm(vm), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		if err := syscall.Kill(info.PID, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		same(t, "a run without the pool", b.must("run", "--rm", "--name", "three", "--", "hostname"), "three")
		for _, vm := range b.pooled(2) {
			if vm.ID == waiting[0].ID || vm.ID == waiting[1].ID {
				t.Errorf("%s is dead, and in the pool", vm.ID)
			}
		}
		waiting = b.pooled(2)
		b.killDaemon()
		if err := syscall.Kill(b.vmm(waiting[0]), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for _, vm := range b.pooled(2) {
			if vm.ID == waiting[0].ID {
				t.Errorf("%s is dead, and in the pool", vm.ID)
			}
		}
		for _, name := range []string{"one", "two"} {
			same(t, "what was taken lives", b.guest(name, "hostname"), name)
		}
		b.must("suspend", "one")
		b.must("start", "one")
		b.must("restart", "two")
		for _, name := range []string{"one", "two"} {
			same(t, "hostname after it has stood still", b.guest(name, "hostname"), name)
		}
	})

	b.sub("given up when memory is short", func(t *testing.T, b *box) {
		b.killDaemon()
		short := *b
		short.env = append(append([]string{}, b.env...), "BANGER_POOL_RESERVE=100T")
		short.pooled(0)
		same(t, "a run meanwhile", short.must("run", "--rm", "--name", "four", "--", "hostname"), "four")
		short.killDaemon()
		b.must("rm", "-f", "one", "two")
		b.pooled(2)
	})

	b.sub("a clean end leaves none", func(t *testing.T, b *box) {
		b.must("daemon", "stop")
		b.checkNoProcesses()
		b.checkNothingOfVMs()
		same(t, "network devices", strings.Join(b.net.links(), " "), "lo")
	})
}
