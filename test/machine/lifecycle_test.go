package machine

import (
	"strings"
	"testing"

	"banger/api"
)

// TestRun is the command of the README: a machine, a command, and nothing left.
func TestRun(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.sub("--rm", func(t *testing.T, b *box) {
		r := b.banger("vm", "run", "--rm", "--name", "demo", "--", "cat", "/etc/hostname")
		same(t, "exit code", r.code, 0)
		same(t, "stdout", r.stdout, "demo\n")
		same(t, "VMs", b.must("ps", "-aq"), "")
		b.checkNothingOfVMs()
	})
	b.sub("--rm with a failing command", func(t *testing.T, b *box) {
		same(t, "exit code", b.banger("run", "--rm", "--", "sh", "-c", "exit 3").code, 3)
		same(t, "VMs", b.must("ps", "-aq"), "")
		b.checkNothingOfVMs()
	})
	b.sub("-d --rm", func(t *testing.T, b *box) {
		name := b.must("run", "-d", "--rm", "--", "sleep", "2")
		same(t, "lines on stdout", strings.Count(name, "\n"), 0)
		eventually(t, "the VM is gone when its command has ended", func() bool { return b.must("ps", "-aq") == "" })
	})
	b.sub("the VM keeps running after its command", func(t *testing.T, b *box) {
		same(t, "stdout", b.must("run", "--name", "stays", "--", "echo", "hello"), "hello")
		same(t, "state", b.show("stays").State, api.StateRunning)
		same(t, "logs", b.must("logs", "stays"), "hello")
		same(t, "exit code of wait", b.banger("wait", "stays").code, 0)
		same(t, "uname", b.guest("stays", "uname -s"), "Linux")
		b.must("rm", "-f", "stays")
	})
}

// TestStopStartReset: stop and start keep everything, reset keeps the work disk only.
func TestStopStartReset(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x")
	b.guest("x", "echo work >/root/w; echo root >/srv/r; echo home >/home/h")
	before := b.show("x")

	b.must("stop", "x")
	same(t, "state", b.show("x").State, api.StateStopped)
	b.fails(125, []string{"x"}, "exec", "x", "--", "true")

	b.must("start", "x")
	same(t, "files after stop and start", b.guest("x", "cat /root/w /srv/r /home/h"), "work\nroot\nhome")
	after := b.show("x")
	same(t, "address", after.Runtime.GuestIP, before.Runtime.GuestIP)
	same(t, "machine id", b.guest("x", "cat /etc/machine-id"), before.Runtime.MachineID)

	b.must("stop", "x")
	b.must("reset", "x")
	b.must("start", "x")
	same(t, "files after reset", b.guest("x", "cat /root/w /home/h; ls /srv"), "work\nhome")

	b.sub("what is only unsynced is not lost by stop", func(t *testing.T, b *box) {
		b.guest("x", "dd if=/dev/urandom of=/srv/big bs=1M count=8 2>/dev/null; sha256sum </srv/big >/root/sum")
		b.must("restart", "x")
		b.guest("x", "sha256sum </srv/big | cmp - /root/sum")
	})

	b.sub("set waits for the next start, and disks grow", func(t *testing.T, b *box) {
		b.must("set", "x", "--memory", "160M", "--disk-size", "512M")
		if p := b.show("x").Pending; len(p) == 0 {
			t.Error("nothing is pending")
		}
		b.must("restart", "x")
		if p := b.show("x").Pending; len(p) != 0 {
			t.Errorf("still pending: %v", p)
		}
		blocks := b.guest("x", "df -m /root | tail -n 1 | awk '{print ($2 > 400)}'")
		same(t, "/root has grown", blocks, "1")
		same(t, "the file is still there", b.guest("x", "cat /root/w"), "work")
	})
	vm := b.show("x")
	b.must("rm", "-f", "x")
	b.checkGone(vm)
}

// TestGuestEndsItself: a guest's reboot brings the same VM back, its poweroff ends in stopped.
func TestGuestEndsItself(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x")
	boot := b.guest("x", "echo kept >/root/f; cat /proc/sys/kernel/random/boot_id")
	b.banger("exec", "x", "--", "reboot")
	eventually(t, "the guest is back with another boot id", func() bool {
		r := b.banger("exec", "x", "--", "cat", "/proc/sys/kernel/random/boot_id")
		return r.code == 0 && strings.TrimSpace(r.stdout) != boot
	})
	same(t, "file and name", b.guest("x", "cat /root/f; hostname"), "kept\nx")
	same(t, "ready", b.show("x").Ready, true)

	b.banger("exec", "x", "--", "poweroff")
	b.must("wait", "x", "--for", "stopped", "--timeout", patience(patient).String())
	vm := b.show("x")
	same(t, "state", vm.State, api.StateStopped)
	if !strings.Contains(vm.StopReason, "guest") {
		t.Errorf("reason: %q", vm.StopReason)
	}
	b.checkVMMsGone(vm)
	b.must("start", "x")
	same(t, "after poweroff and start", b.guest("x", "cat /root/f"), "kept")
}
