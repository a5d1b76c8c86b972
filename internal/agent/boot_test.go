package agent_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/loud"
)

const machineID = "0123456789abcdef0123456789abcdef"

// identity is a Personalise with everything in it.
func identity(t testing.TB) agentapi.Personalise {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		loud.Skip(t, "ssh-keygen: %v: %s", err, out)
	}
	private, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return agentapi.Personalise{
		Entropy: bytes.Repeat([]byte{7}, 64), Time: time.Now(), Hostname: "demo", MachineID: machineID,
		Network: &agentapi.Network{MAC: "52:54:00:12:34:56", Address: "10.9.8.7/24", Gateway: "10.9.8.1", MTU: 1400,
			Resolvers: []string{"10.9.8.1"}, SearchList: []string{"vm"}},
		WorkDisk:   &agentapi.WorkDisk{Device: agentapi.SerialWork},
		SSHHostKey: private, SSHHostKeyPub: string(public),
		AuthorizedKeys: []string{"ssh-ed25519 AAAA test"},
	}
}

// expect runs scripts in the guest and compares what they print.
func (g *guest) expect(want map[string]string) {
	g.t.Helper()
	for script, w := range want {
		if got := g.sh(script); got != w {
			g.t.Errorf("%s: got %q, want %q", script, got, w)
		}
	}
}

// TestBareGuest walks a guest with nothing but a shell through its life.
func TestBareGuest(t *testing.T) {
	l := newLab(t)
	dir := busyboxRoot(t)
	put(t, filepath.Join(dir, "root/from-image"), "hello", 0o640)
	put(t, filepath.Join(dir, "etc/passwd"), "root:x:0:0::/root:/bin/sh\ndev:x:1000:1000::/home/dev:/bin/sh\n", 0o644)
	if err := os.MkdirAll(filepath.Join(dir, "home/dev"), 0o700); err != nil {
		t.Fatal(err)
	}
	l.modulesDisk(t)
	root := l.disk(t, "root.img", dir, 64<<20)
	if err := os.Truncate(root, 2<<30); err != nil { // as if the machine had --root-size 2G
		t.Fatal(err)
	}
	work := l.disk(t, "work.img", "", 600<<20)
	who := identity(t)

	start := time.Now()
	g := l.boot(t, root, work, "", "-rtc", "base=2001-01-01T00:00:00")
	first := g.health()
	t.Logf("cold boot to the first answer: %v (in the guest: %d ms)", time.Since(start), first.UptimeMS)
	if first.Init != "none" || first.Personalised || first.BootID == "" {
		t.Errorf("first health: %+v", first)
	}
	g.waitReady(20 * time.Second)
	before := time.Now()
	if h := g.personalise(who); !h.Personalised {
		t.Errorf("after personalising: %+v", h)
	}
	t.Logf("personalised, work disk formatted, in %v", time.Since(before))
	before = time.Now()
	g.personalise(who)
	t.Logf("personalised again in %v", time.Since(before))

	g.expect(map[string]string{
		"hostname; cat /etc/hostname /etc/machine-id":                          "demo\ndemo\n" + machineID,
		"cat /etc/resolv.conf":                                                 "nameserver 10.9.8.1\nsearch vm",
		"cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu":              "52:54:00:12:34:56\n1400",
		"ip -4 -o addr show eth0 | grep -o 'inet [^ ]*'":                       "inet 10.9.8.7/24",
		"ip route | head -1":                                                   "default via 10.9.8.1 dev eth0 onlink",
		"ip -o addr show eth0 | grep -c inet6":                                 "0",
		"cat /root/from-image; stat -c '%a %u' /root/from-image":               "hello640 0",
		"stat -c '%a %u:%g' /root /root/.ssh /root/.ssh/authorized_keys":       "755 0:0\n700 0:0\n600 0:0",
		"stat -c '%a %u:%g' /home/dev /home/dev/.ssh":                          "700 1000:1000\n700 1000:1000",
		"stat -c '%a' /etc/ssh/ssh_host_ed25519_key /tmp":                      "600\n1777",
		"cut -d' ' -f2,3,4 /proc/mounts | grep -c '^/root ext4 .*discard'":     "1",
		"ls -d /lib/modules/*/kernel >/dev/null && echo yes":                   "yes",
		"modprobe overlay && grep -c '^overlay' /proc/modules":                 "1",
		"test -c /dev/ptmx && test -d /proc/self/fd && echo x >/dev/stdout":    "x",
		"cat /sys/fs/cgroup/cgroup.subtree_control | grep -o memory":           "memory",
		"head -1 /proc/1/comm; cat /proc/sys/kernel/cap_last_cap >/dev/null":   "init",
		"cat /proc/sys/vm/compaction_proactiveness /proc/sys/vm/stat_interval": "0\n10",
	})
	if now, _ := strconv.ParseInt(g.sh("date +%s"), 10, 64); time.Since(time.Unix(now, 0)).Abs() > 5*time.Second {
		t.Errorf("the guest's clock says %v", time.Unix(now, 0))
	}
	if kb, _ := strconv.Atoi(g.sh("df -k / | tail -1 | awk '{print $2}'")); kb < 1900<<10 {
		t.Errorf("the root file system has %d KiB of its 2 GiB disk", kb)
	}

	t.Run("agent dies", func(t *testing.T) {
		// A session outlives the agent that started it.
		g.must(g.call("POST", "/sessions", agentapi.SessionStart{ID: "main",
			Exec: api.ExecSpec{Argv: []string{"/bin/sh", "-c", "until test -e /run/go; do sleep 0.1; done; echo through; exit 7"}}}, nil))
		g.sh("(sleep 0.1; kill -9 " + g.agentPID() + ") >/dev/null 2>&1 &")
		h := g.healthAfter(func(h agentapi.Health) bool { return h.AgentID != first.AgentID })
		if h.BootID != first.BootID || !h.Personalised {
			t.Errorf("health of the next agent: %+v", h)
		}
		g.sh("touch /run/go")
		var main agentapi.Session
		for deadline := time.Now().Add(20 * time.Second); main.State != "exited" && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			g.must(g.call("GET", "/sessions/main", nil, &main))
		}
		if main.ExitCode != 7 || main.StdoutBytes != int64(len("through\n")) {
			t.Errorf("the session ended as %+v", main)
		}
	})
	t.Run("grow", func(t *testing.T) {
		g.qmpCommand(fmt.Sprintf(`{"execute":"block_resize","arguments":{"device":"dbangerwork","size":%d}}`, 1<<30))
		g.must(g.call("POST", "/grow", nil, nil))
		if kb, _ := strconv.Atoi(g.sh("df -k /root | tail -1 | awk '{print $2}'")); kb < 900<<10 {
			t.Errorf("the work file system has %d KiB of its 1 GiB disk", kb)
		}
	})
	t.Run("discard", func(t *testing.T) {
		g.sh("dd if=/dev/urandom of=/root/big bs=1M count=32 2>/dev/null; sync")
		full := usage(t, work)
		g.sh("rm /root/big; sync")
		for deadline := time.Now().Add(20 * time.Second); usage(t, work) > full-30<<20; time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the host's file had %d bytes with the file and has %d without", full, usage(t, work))
			}
		}
	})
	t.Run("idle", func(t *testing.T) { g.logIdle(6 * time.Second) })
	t.Run("reboot from inside", func(t *testing.T) {
		g.sh("echo kept > /root/kept; echo kept > /kept; chmod 777 /root; (sleep 0.1; reboot) >/dev/null 2>&1 &")
		h := g.healthAfter(func(h agentapi.Health) bool { return h.BootID != first.BootID })
		if h.Personalised {
			t.Errorf("personalised after a boot: %+v", h)
		}
		g.personalise(who)
		g.expect(map[string]string{"cat /root/kept /kept": "kept\nkept", "stat -c %a /root": "755"})
	})
	t.Run("shutdown", func(t *testing.T) {
		// Written just before, ended by TERM, and one that does not want to end.
		g.sh("echo late > /root/late; (trap 'echo term > /root/term; exit' TERM; while :; do sleep 0.1; done) >/dev/null 2>&1 & " +
			"(trap '' TERM; while :; do sleep 0.1; done) >/dev/null 2>&1 &")
		before := time.Now()
		g.must(g.call("POST", "/shutdown", agentapi.Shutdown{TimeoutMS: 1000}, nil))
		t.Logf("shutdown answered in %v", time.Since(before))
		g.waitEnd(20 * time.Second)
		t.Logf("ended in %v", time.Since(before))
	})
	t.Run("again", func(t *testing.T) {
		g := l.boot(t, root, work, "")
		g.personalise(who)
		g.expect(map[string]string{"cat /root/late /root/term": "late\nterm", "cat /root/from-image": "hello"})
		g.sh("(sleep 0.1; poweroff) >/dev/null 2>&1 &")
		g.waitEnd(20 * time.Second)
	})
	for _, disk := range []string{root, work} {
		if out, err := exec.Command("e2fsck", "-fn", disk).CombinedOutput(); err != nil {
			t.Errorf("%s after all this: %v: %s", filepath.Base(disk), err, out)
		}
	}
}

// TestWorkDiskIsNotEaten boots with disks that are not for formatting.
func TestWorkDiskIsNotEaten(t *testing.T) {
	l := newLab(t)
	root := l.disk(t, "root.img", busyboxRoot(t), 64<<20)
	foreign := l.disk(t, "foreign.img", "", 64<<20)
	f, err := os.OpenFile(foreign, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("_BHRfS_M"), 0x10040)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	was, _ := os.ReadFile(foreign)
	g := l.boot(t, root, foreign, "")
	err = g.call("POST", "/personalise", agentapi.Personalise{WorkDisk: &agentapi.WorkDisk{Device: agentapi.SerialWork}}, nil)
	if err == nil || !strings.Contains(err.Error(), "not ext4") {
		t.Errorf("a foreign disk gave %v", err)
	}
	if h := g.health(); h.Personalised {
		t.Errorf("health: %+v", h)
	}
	if now, _ := os.ReadFile(foreign); !bytes.Equal(was, now) {
		t.Error("the foreign disk was written to")
	}
	g.must(g.call("POST", "/shutdown", agentapi.Shutdown{}, nil))
	g.waitEnd(20 * time.Second)

	// A file system with an error on record is checked before it is mounted.
	content := t.TempDir()
	put(t, filepath.Join(content, "mine"), "mine", 0o644)
	damaged := l.disk(t, "damaged.img", content, 64<<20)
	if out, err := exec.Command("debugfs", "-w", "-R", "ssv state 2", damaged).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	g = l.boot(t, root, damaged, "")
	g.personalise(agentapi.Personalise{WorkDisk: &agentapi.WorkDisk{Device: agentapi.SerialWork}})
	g.expect(map[string]string{"cat /run/banger/work/mine": "mine"})
	g.must(g.call("POST", "/shutdown", agentapi.Shutdown{}, nil))
	g.waitEnd(20 * time.Second)
	if out, err := exec.Command("dumpe2fs", "-h", damaged).CombinedOutput(); err != nil || !strings.Contains(string(out), "state:         clean\n") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestStaticGuest boots a root that holds one static program and no directory at all.
func TestStaticGuest(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	bb, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(bb)
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "busybox"), string(data), 0o755)
	g := l.boot(t, l.disk(t, "root.img", dir, 64<<20), l.disk(t, "work.img", "", 64<<20), agentapi.ParamInit+"=none")
	g.personalise(identity(t))
	for want, argv := range map[string][]string{
		"demo\n":        {"/busybox", "cat", "/etc/hostname"},
		"1024 524288\n": {"/busybox", "sh", "-c", "echo $(ulimit -Sn) $(ulimit -Hn)"},
		"/root\n":       {"/busybox", "pwd"},
	} {
		if out, errs, exit := g.exec(api.ExecSpec{Argv: argv}); out != want || exit.ExitCode != 0 {
			t.Errorf("%v: %q, %q, %+v", argv, out, errs, exit)
		}
	}
	g.must(g.call("POST", "/shutdown", agentapi.Shutdown{}, nil))
	g.waitEnd(20 * time.Second)
}

// TestUnbootableGuest: the host must learn at once, and the console must say why.
func TestUnbootableGuest(t *testing.T) {
	l := newLab(t)
	g := l.start(t, l.disk(t, "root.img", "", 64<<20), "", "")
	g.waitEnd(30 * time.Second)
	if console, _ := os.ReadFile(g.console); !strings.Contains(string(console), "banger: cannot boot: cannot mount ext4 from /dev/vda") {
		t.Errorf("console:\n%s", console)
	}
}

// usage is what a sparse file takes on the host, in bytes.
func usage(t testing.TB, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}
