package agent_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
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
			return filepath.Join(filepath.Dir(r), "root.ext4")
		}
	}
	need(t, "BANGER_TEST_SYSTEMD_IMAGE names no disk image, and make test has prepared none")
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
