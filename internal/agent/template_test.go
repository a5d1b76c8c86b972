package agent_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
)

const (
	bootMAC     = "52:54:00:00:00:01" // the device's own, as a template's
	readBootID  = "cat /proc/sys/kernel/random/boot_id"
	workDevice  = "for d in /sys/block/*; do grep -q banger-work $d/serial 2>/dev/null && echo ${d##*/}; done"
	workTouched = "for d in /sys/block/*; do grep -q banger-work $d/serial 2>/dev/null && awk '{print $1+$5}' $d/stat; done"
)

// cable plugs the network in or out.
func (g *guest) cable(in bool) {
	g.t.Helper()
	g.qmpCommand(fmt.Sprintf(`{"execute":"set_link","arguments":{"name":"n","up":%v}}`, in))
}

// frames are what the guest's device has sent so far, as filter-dump has written it (pcap).
func frames(t testing.TB, path string) (out [][]byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for p := data[min(24, len(data)):]; len(p) >= 16; {
		n := 16 + int(binary.LittleEndian.Uint32(p[8:]))
		if n > len(p) {
			break // half written
		}
		out = append(out, p[16:n])
		p = p[n:]
	}
	return out
}

func sent(t testing.TB, path, mac string) func() bool {
	want, err := hex.DecodeString(strings.ReplaceAll(mac, ":", ""))
	if err != nil {
		t.Fatal(err)
	}
	return func() bool {
		for _, f := range frames(t, path) {
			if bytes.Contains(f, want) {
				return true
			}
		}
		return false
	}
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// fill writes one disk image over another that a VMM has open.
func fill(t testing.TB, dst, src string) {
	t.Helper()
	data, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(dst, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const block = 64 << 10
	zero := make([]byte, block)
	for off := 0; off < len(data); off += block {
		p := data[off:min(off+block, len(data))]
		if bytes.Equal(p, zero[:len(p)]) {
			continue
		}
		if _, err := f.WriteAt(p, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReleasedGuest is what a template and its clones go through, but for the freezing in between.
func TestReleasedGuest(t *testing.T) {
	l := newLab(t)
	dir := busyboxRoot(t)
	seed := filepath.Join(dir, "var/lib/systemd/random-seed")
	if err := os.MkdirAll(filepath.Dir(seed), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, seed, "seed", 0o600)
	l.modulesDisk(t)
	root, work := l.disk(t, "root.img", dir, 64<<20), l.disk(t, "work.img", "", 600<<20)
	dump := filepath.Join(l.dir, "frames")
	g := l.boot(t, root, work, "", "-object", "filter-dump,id=f,netdev=n,file="+dump)
	who := identity(t)

	if err := g.call("POST", "/quiesce", nil, nil); err == nil {
		t.Error("a guest that was not released was quiesced")
	}
	g.must(g.call("POST", "/release", agentapi.Release{}, nil))
	g.must(g.call("POST", "/release", agentapi.Release{}, nil))
	first := g.waitReady(20 * time.Second)
	touched := g.sh(workTouched)
	before := time.Now()
	g.must(g.call("POST", "/quiesce", nil, nil))
	t.Logf("quiesced in %v", time.Since(before))
	g.connect() // who goes on is another host: the agent lets go of this one
	first = g.health()
	if first.Personalised {
		t.Errorf("health: %+v", first)
	}
	g.expect(map[string]string{
		"hostname; cat /etc/hostname /etc/machine-id /etc/ssh/*; ls /var/lib/systemd/random-seed 2>/dev/null": "localhost",
		"cat /sys/class/net/eth0/flags":              "0x1003", // up, but with nothing to say
		"grep -c 'banger-work\\|/root' /proc/mounts": "0",
		workTouched: touched,
		readBootID:  first.BootID,
	})

	// The clone: its cable is out, its work disk another one than the kernel has met.
	content := t.TempDir()
	for _, d := range []string{"root", "home/dev"} {
		if err := os.MkdirAll(filepath.Join(content, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(content, "root/filled"), "filled", 0o644)
	fill(t, work, l.disk(t, "filled.img", content, 600<<20))
	g.cable(false)
	before = time.Now()
	born := g.personalise(who)
	t.Logf("personalised late in %v", time.Since(before))
	if !born.Personalised || born.BootID == first.BootID || born.AgentID == first.AgentID {
		t.Errorf("health: %+v, and before %+v", born, first)
	}
	if off := time.Until(born.Now).Abs(); off > 500*time.Millisecond { // package guest's client does better
		t.Errorf("the clock is off by %v", off)
	}
	g.expect(map[string]string{
		readBootID:         born.BootID,
		"cat /root/filled": "filled",
		"hostname; cat /etc/hostname /etc/machine-id":                        "demo\ndemo\n" + machineID,
		"cat /sys/class/net/eth0/address":                                    who.Network.MAC,
		"ip -4 -o addr show eth0 | grep -o 'inet [^ ]*'":                     "inet " + who.Network.Address,
		"cat /sys/class/net/eth0/carrier":                                    "0",
		"(echo x >/proc/sys/kernel/random/boot_id) 2>&1 | grep -o Read-only": "Read-only",
	})
	// An ordinary user's container can still mount a proc of its own.
	if out, errs, exit := g.exec(api.ExecSpec{User: "1000", Argv: []string{"/bin/busybox", "unshare", "-Urpf", "--mount-proc", "/bin/busybox", "ls", "/proc/1/comm"}}); out != "/proc/1/comm\n" {
		t.Errorf("a container: %q, %q, %+v", out, errs, exit)
	}
	before = time.Now()
	again := g.personalise(who)
	t.Logf("personalised again in %v", time.Since(before))
	if again.BootID != born.BootID || again.AgentID != born.AgentID {
		t.Errorf("a repeated Personalise made another boot of it: %+v", again)
	}
	if len(frames(t, dump)) > 0 {
		t.Error("the guest has sent something before its cable was plugged in")
	}
	g.cable(true)
	await(t, "the guest's word to the network", sent(t, dump, who.Network.MAC))

	// A fork: what runs goes on, connections do not.
	g.sh("busybox mkfifo /run/none; exec 3<>/run/none; " + // a stdin without an end
		"(busybox nc -l -p 9 <&3 >/run/net; echo ended >/run/net.end) >/dev/null 2>&1 & " +
		"(busybox nc -l -p 10 <&3 >/run/lo) >/dev/null 2>&1 & " +
		"(while :; do date; sleep 0.1; done >/root/open) >/dev/null 2>&1 & sleep 0.5; " +
		"(busybox nc 10.9.8.7 9 <&3; echo ended >/run/net.other) >/dev/null 2>&1 & " +
		"(while :; do echo x; sleep 0.1; done | busybox nc 127.0.0.1 10) >/dev/null 2>&1 &")
	g.await("cat /proc/net/tcp /proc/net/tcp6 | grep -c '0708090A:[0-9A-F]* [0-9A-F:]* 01'", "2")
	g.await("test -s /run/lo && echo yes", "yes")
	fork := identity(t)
	fork.Thawed, fork.Hostname, fork.MachineID = agentapi.ThawedFork, "fork", strings.Repeat("f", 32)
	fork.Network.MAC, fork.Network.Address = "52:54:00:12:34:99", "10.9.8.99/24"
	g.cable(false)
	before = time.Now()
	h := g.personalise(fork)
	t.Logf("forked, with two connections, in %v", time.Since(before))
	if h.BootID == born.BootID || h.AgentID == born.AgentID {
		t.Errorf("health of a fork: %+v", h)
	}
	g.await("cat /run/net.end /run/net.other", "ended\nended")
	size := g.sh("stat -c %s /run/lo")
	g.await("test $(stat -c %s /run/lo) -gt "+size+" && echo on", "on")
	g.sh("wc -c < /root/open > /run/size")
	g.await("test $(wc -c < /root/open) -gt $(cat /run/size) && echo on", "on")
	g.expect(map[string]string{
		readBootID: h.BootID,
		"hostname; cat /etc/hostname /etc/machine-id":                     "fork\nfork\n" + fork.MachineID,
		"cat /sys/class/net/eth0/address":                                 fork.Network.MAC,
		"ip -4 -o addr show eth0 | grep -o 'inet [^ ]*'":                  "inet 10.9.8.99/24",
		"ip route | head -1":                                              "default via 10.9.8.1 dev eth0 onlink",
		"cat /proc/net/tcp /proc/net/tcp6 | grep -c 0708090A":             "0",
		"grep -c " + strings.Fields(who.SSHHostKeyPub)[1] + " /etc/ssh/*": "/etc/ssh/ssh_host_ed25519_key:0\n/etc/ssh/ssh_host_ed25519_key.pub:0",
	})
	mark := len(frames(t, dump))
	g.cable(true)
	await(t, "the fork's word to the network", sent(t, dump, fork.Network.MAC))
	for _, f := range frames(t, dump)[mark:] {
		if old, _ := hex.DecodeString(strings.ReplaceAll(who.Network.MAC, ":", "")); bytes.Contains(f, old) {
			t.Errorf("the fork has sent a frame of its source: %x", f)
		}
	}
	if sent(t, dump, bootMAC)() {
		t.Error("a frame with the template's MAC address was sent")
	}

	// It goes on from its own memory: nothing of what its users see has changed.
	g.sh("hostname mine; rm -f /run/net /run/lo")
	mark = len(frames(t, dump))
	g.cable(false)
	before = time.Now()
	resumed := g.personalise(agentapi.Personalise{Thawed: agentapi.ThawedResume, Entropy: fork.Entropy, Time: time.Now(), Network: fork.Network})
	t.Logf("resumed in %v", time.Since(before))
	if resumed.BootID != h.BootID || resumed.AgentID != h.AgentID || !resumed.Personalised {
		t.Errorf("health of a resumed guest: %+v", resumed)
	}
	g.expect(map[string]string{"hostname": "mine", "ip -4 -o addr show eth0 | grep -o 'inet [^ ]*'": "inet 10.9.8.99/24"})
	g.cable(true)
	await(t, "the resumed guest's word to the network", func() bool { return len(frames(t, dump)) > mark })
	if err := g.call("POST", "/personalise", agentapi.Personalise{Thawed: "otherwise"}, nil); err == nil {
		t.Error("a guest was thawed in an unknown way")
	}
	if err := g.call("POST", "/quiesce", nil, nil); err == nil {
		t.Error("a guest with an identity was quiesced")
	}
	g.must(g.call("POST", "/shutdown", agentapi.Shutdown{TimeoutMS: 500}, nil))
	g.waitEnd(20 * time.Second)
}
