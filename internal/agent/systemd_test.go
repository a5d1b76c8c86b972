package agent_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/loud"
)

// systemdImage is a raw ext4 disk with a Debian that has systemd and sshd.
func systemdImage(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("BANGER_TEST_SYSTEMD_IMAGE"); p != "" {
		return p
	}
	records, _ := filepath.Glob("../../.cache/test-state/images/*/record.json")
	for _, r := range records {
		var image api.Image
		data, err := os.ReadFile(r)
		if err == nil && json.Unmarshal(data, &image) == nil && image.Init == "systemd" && image.HasSSHD {
			path, err := filepath.Abs(filepath.Join(filepath.Dir(r), "root.ext4")) // VMMs start in /
			if err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	loud.Skip(t, "BANGER_TEST_SYSTEMD_IMAGE names no disk image, and make test has prepared none")
	return ""
}

// TestLongSystemdGuest walks a guest with systemd through its life. It takes a minute; test/machine
// looks at the same from outside.
func TestLongSystemdGuest(t *testing.T) {
	l := newLab(t)
	image := systemdImage(t)
	root := filepath.Join(l.dir, "root.img")
	if out, err := exec.Command("cp", "--sparse=always", image, root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Chmod(root, 0o600); err != nil {
		t.Fatal(err)
	}
	l.modulesDisk(t)
	work := l.disk(t, "work.img", "", 1<<30)
	who := identity(t)

	start := time.Now()
	g := l.boot(t, root, work, "")
	first := g.health()
	t.Logf("cold boot to the first answer: %v (in the guest: %d ms)", time.Since(start), first.UptimeMS)
	if first.Init != "systemd" || first.Ready || first.Waiting == "" {
		t.Errorf("first health: %+v", first)
	}
	before := time.Now()
	g.personalise(who)
	t.Logf("personalised, work disk formatted, in %v", time.Since(before))
	h := g.waitReady(120 * time.Second)
	t.Logf("ready: %v", time.Since(start))
	if len(h.Degraded) > 0 {
		t.Errorf("degraded: %v\n%s", h.Degraded, g.sh("systemctl status --no-pager "+strings.Join(h.Degraded, " ")))
	}
	g.expect(map[string]string{
		"hostname; cat /etc/machine-id":                                    "demo\n" + machineID,
		"journalctl -q -b -n 1 -o json | grep -o '_MACHINE_ID\":\"[^\"]*'": "_MACHINE_ID\":\"" + machineID,
		"systemctl is-active ssh.service":                                  "active",
		"findmnt -n -o TARGET /root; findmnt -n -o TARGET /home":           "/root\n/home",
		"stat -c '%a %U:%G' /root /root/.ssh /home/dev/.ssh":               "755 root:root\n700 root:root\n700 dev:dev",
		"grep banger /proc/self/cgroup | sed 's/-.*//'":                    "0::/banger/exec",
		"cat /proc/$(pgrep -of '^@banger-agent')/cgroup":                   "0::/banger/agent",
		"ssh-keyscan -t ed25519 127.0.0.1 2>/dev/null | cut -d' ' -f3":     strings.Fields(who.SSHHostKeyPub)[1],
	})

	t.Run("agent dies", func(t *testing.T) {
		g.sh("(sleep 0.1; kill -9 " + g.agentPID() + ") >/dev/null 2>&1 &")
		h := g.healthAfter(func(h agentapi.Health) bool { return h.AgentID != first.AgentID && h.Ready })
		if h.BootID != first.BootID || !h.Personalised {
			t.Errorf("health of the next agent: %+v", h)
		}
	})
	t.Run("personalised late", func(t *testing.T) {
		next := identity(t)
		next.Hostname, next.MachineID = "other", strings.Repeat("5", 32)
		g.personalise(next)
		g.await("ssh-keyscan -t ed25519 127.0.0.1 2>/dev/null | cut -d' ' -f3", strings.Fields(next.SSHHostKeyPub)[1])
		g.await("logger -t x y; journalctl -q -b -t x -n 1 -o json | grep -o '_MACHINE_ID\":\"[^\"]*'", "_MACHINE_ID\":\""+next.MachineID)
		who = next
	})
	t.Run("idle", func(t *testing.T) { g.logIdle(6 * time.Second) })
	t.Run("reboot from inside", func(t *testing.T) {
		g.sh("echo kept > /root/kept; chmod 777 /root; systemctl --no-block reboot")
		h := g.healthAfter(func(h agentapi.Health) bool { return h.BootID != first.BootID })
		if h.Personalised {
			t.Errorf("personalised after a boot: %+v", h)
		}
		// A host that does not personalise holds systemd up for a while only.
		g.waitReady(120 * time.Second)
		g.personalise(who)
		g.expect(map[string]string{"cat /root/kept": "kept", "stat -c %a /root": "755", "hostname": "other"})
	})
	t.Run("shutdown", func(t *testing.T) {
		g.sh("echo late > /root/late; cd /; (trap '' TERM; while :; do sleep 0.1; done) >/dev/null 2>&1 &")
		before := time.Now()
		g.must(g.call("POST", "/shutdown", agentapi.Shutdown{TimeoutMS: 10_000}, nil))
		t.Logf("shutdown answered in %v", time.Since(before))
		g.waitEnd(30 * time.Second)
		t.Logf("ended in %v", time.Since(before))
		if console, _ := os.ReadFile(g.console); strings.Contains(string(console), "Failed unmounting") || strings.Contains(string(console), "ending it now") {
			t.Errorf("not a clean end:\n%s", console)
		}
	})
	for _, disk := range []string{root, work} {
		if out, err := exec.Command("e2fsck", "-fn", disk).CombinedOutput(); err != nil {
			t.Errorf("%s after all this: %v: %s", filepath.Base(disk), err, out)
		}
	}
}

// TestLongSystemdThaw takes a guest with systemd through a template, a clone and a fork.
func TestLongSystemdThaw(t *testing.T) {
	f := newFreezer(t, systemdImage(t), 256<<20, func(v *vm) {
		h, err := v.Health(bounded(t))
		if err != nil || len(h.Degraded) > 0 || h.Personalised {
			t.Errorf("the template: %+v, %v", h, err)
		}
		v.shows("hostname; systemctl is-active ssh.service ssh.socket; ls /etc/ssh | grep ssh_host", "localhost\ninactive\ninactive")
		v.shows("findmnt -n -o SOURCE,FSTYPE /etc/machine-id | tr -s ' '; wc -c < /run/machine-id", "tmpfs[/machine-id] tmpfs\n33")
		v.shows("umount /etc/machine-id; wc -c < /etc/machine-id; mount --bind /run/machine-id /etc/machine-id", "0")
		v.shows("find /var/log/journal -type f 2>/dev/null; ip -o addr show eth0 | grep -c inet", "0")
		// Nobody has looked at what is in the work disk's slot, but for the kernel itself, or has it open.
		v.shows("d=$("+workDevice+"); udevadm info -q property /dev/$d | grep -c 'ID_FS\\|ID_PART'; ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c \"/dev/$d\"; grep -c \"/dev/$d\" /proc/mounts", "0\n0\n0")
	})
	who := identities(t, 2)
	seen := map[string]string{}
	var journals string
	is := func(v *vm, who agentapi.Personalise) {
		begin := time.Now()
		h, took := v.personalise(who)
		t.Logf("%s personalised in %v", v.m.ID, took)
		if !h.Ready || !h.Personalised || len(h.Degraded) > 0 {
			t.Errorf("%s: %+v", v.m.ID, h)
		}
		v.onTime()
		v.speaksAs(who.Network.MAC)
		v.differs(seen, who)
		v.soon("ssh-keyscan -t ed25519 127.0.0.1 2>/dev/null | cut -d' ' -f3", strings.Fields(who.SSHHostKeyPub)[1])
		t.Logf("%s: sshd after %v", v.m.ID, time.Since(begin))
		boot := strings.ReplaceAll(h.BootID, "-", "")
		v.soon("logger -t x y; journalctl -q -t x -n 1 -o json | grep -o '_BOOT_ID\":\"[^\"]*\\|_MACHINE_ID\":\"[^\"]*' | sort", "_BOOT_ID\":\""+boot+"\n_MACHINE_ID\":\""+who.MachineID)
		v.shows("hostnamectl hostname; hostnamectl status | grep -o 'Machine ID: .*\\|Boot ID: .*'", who.Hostname+"\nMachine ID: "+who.MachineID+"\nBoot ID: "+boot)
		v.shows("mountpoint -q /etc/machine-id || echo plain; ls -d /run/machine-id 2>/dev/null; find /var/log/journal -type f 2>/dev/null; ls /run/log/journal", "plain\n"+journals)
		v.soon("systemctl is-system-running", "running")
		v.shows("findmnt -n -o TARGET /root; findmnt -n -o TARGET /home; stat -c '%a %U:%G' /root/.ssh", "/root\n/home\n700 root:root")
	}
	begin := time.Now()
	journals = who[0].MachineID
	clone := f.thaw("clone", who[0].Network.MAC, f.frozen, f.base.Drives)
	is(clone, who[0])
	t.Logf("thawed and looked at in %v", time.Since(begin))
	clone.sh("systemd-run -q --unit counts sh -c 'while :; do echo; sleep 0.1; done >/root/count'")
	base := slices.Clone(clone.m.Drives)
	frozen := clone.freeze(false)
	who[1].Thawed = agentapi.ThawedFork
	journals = who[0].MachineID + "\n" + who[1].MachineID // a fork keeps what its source has logged
	fork := f.thaw("fork", who[1].Network.MAC, frozen, base)
	is(fork, who[1])
	fork.counts("/root/count")
	fork.shows("systemctl is-active counts.service", "active")
	clone.counts("/root/count")
	clone.shows("hostname; cat /etc/machine-id", who[0].Hostname+"\n"+who[0].MachineID)
	for _, v := range []*vm{fork, clone} {
		if err := v.Shutdown(bounded(t), agentapi.Shutdown{TimeoutMS: 10_000}); err != nil {
			t.Error(err)
		}
		await(t, "the end of "+v.m.ID, func() bool { return v.cpu() == 0 })
		console, _ := os.ReadFile(filepath.Join(v.m.Dir, "console.log"))
		if strings.Contains(string(console), "Failed unmounting") || strings.Contains(string(console), "ending it now") {
			t.Errorf("not a clean end:\n%s", console)
		}
	}
}
