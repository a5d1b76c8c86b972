package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSystemd: the default image, up to a system that says of itself that it runs, and ssh into it.
func TestSystemd(t *testing.T) {
	t.Parallel()
	b := newBox(t, setting("image", "debian"), setting("memory", "512M"))
	known := filepath.Join(b.home, ".ssh", "known_hosts")
	if err := os.MkdirAll(filepath.Dir(known), 0o700); err != nil {
		t.Fatal(err)
	}
	const mine = "github.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl\n"
	if err := os.WriteFile(known, []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}
	b.must("run", "-d", "--name", "x")
	first := b.show("x")

	b.sub("is-system-running", func(t *testing.T, b *box) {
		same(t, "state", b.guest("x", "systemctl is-system-running; systemctl --failed --no-legend >&2"), "running")
		same(t, "PID 1", b.guest("x", "cat /proc/1/comm"), "systemd")
		same(t, "user", b.must("exec", "-u", "dev", "x", "--", "sudo", "-n", "id", "-un"), "root")
		same(t, "uid of dev", b.guest("x", "id -u dev"), "1000")
		same(t, "locale", b.guest("x", "locale 2>/dev/null | grep ^LANG= | tr -d '\"'"), "LANG=C.UTF-8")
	})
	b.sub("sshd's configuration", func(t *testing.T, b *box) {
		config := "\n" + strings.ToLower(b.guest("x", "sshd -T")) + "\n"
		for _, line := range []string{
			"permitrootlogin without-password", // sshd -T's word for prohibit-password
			"pubkeyauthentication yes", "passwordauthentication no", "kbdinteractiveauthentication no",
			"authorizedkeysfile /root/.ssh/authorized_keys", "strictmodes yes",
		} {
			if !strings.Contains(config, "\n"+line+"\n") {
				t.Errorf("sshd -T lacks %q", line)
			}
		}
		if strings.Contains(config, "\nloglevel debug") {
			t.Error("sshd logs at a debug level")
		}
	})
	ssh := func(b *box, who string) result {
		return b.run(nil, "ssh", "-F", filepath.Join(b.home, ".ssh", "config"), "-o", "BatchMode=yes", who+"@x.vm", "id -un")
	}
	connects := func(t *testing.T, b *box) {
		same(t, "banger ssh", b.must("ssh", "x", "--", "id", "-un"), "root")
		for _, who := range []string{"root", "dev"} {
			r := ssh(b, who)
			same(t, "ssh "+who+"@x.vm: "+r.stderr, r.stdout, who+"\n")
		}
	}
	b.must("ssh-config", "--install")
	b.must("ssh-config", "--install")
	text, err := os.ReadFile(filepath.Join(b.home, ".ssh", "config"))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "Include lines after two installs", strings.Count(strings.ToLower(string(text)), "\ninclude ")+strings.Count(strings.ToLower(string(text[:min(8, len(text))])), "include "), 1)
	b.sub("ssh", connects)
	b.sub("the modes of /root are mended at each start", func(t *testing.T, b *box) {
		b.guest("x", "chmod 777 /root; chown dev /root; chmod 777 /root/.ssh")
		b.must("restart", "x")
		same(t, "/root", b.guest("x", "stat -c '%a %U:%G' /root"), "755 root:root")
		same(t, "/root/.ssh", b.guest("x", "stat -c '%a %U:%G' /root/.ssh"), "700 root:root")
		connects(t, b)
	})
	b.sub("the daemon's death changes nothing for ssh", func(t *testing.T, b *box) {
		b.killDaemon()
		connects(t, b)
	})
	b.sub("a changed host key is refused", func(t *testing.T, b *box) {
		b.guest("x", `for f in $(sshd -T | awk '$1 == "hostkey" {print $2}'); do
			test -e $f || continue
			rm -f $f $f.pub; ssh-keygen -q -t ed25519 -N '' -f $f
		done; systemctl restart ssh`)
		b.fails(255, []string{"possible MITM"}, "ssh", "x", "--", "true")
		r := ssh(b, "root")
		if r.code == 0 || !strings.Contains(r.stderr, "MITM") && !strings.Contains(strings.ToLower(r.stderr), "host key") {
			t.Errorf("through the Include: %v", r)
		}
	})
	b.sub("a new VM with the same name and address connects", func(t *testing.T, b *box) {
		b.must("rm", "-f", "x")
		b.checkGone(first)
		b.must("run", "-d", "--name", "x")
		second := b.show("x")
		same(t, "address", second.Runtime.GuestIP, first.Runtime.GuestIP)
		if second.Runtime.SSHHostKey == first.Runtime.SSHHostKey {
			t.Error("both machines have the same host key")
		}
		connects(t, b)
	})
	b.sub("suspend, start and fork of a clone", func(t *testing.T, b *box) {
		if steps := b.steps("x"); !has(steps, "thaw") || has(steps, "guest") {
			t.Errorf("it was not thawed: %v", steps)
		}
		b.guest("x", "systemd-run --quiet --unit=counter sh -c '"+counter+"'")
		var c counts
		c.goOn(b, "x")
		b.must("suspend", "x")
		b.must("start", "x")
		c.goOn(b, "x")
		same(t, "state", b.guest("x", "systemctl is-system-running; systemctl --failed --no-legend >&2"), "running")
		connects(t, b)

		b.must("fork", "x", "--name", "y")
		fork := counts{boot: "", last: c.last}
		fork.goOn(b, "y")
		c.goOn(b, "x")
		b.checkNothingShared("x", "y")
		b.checkClock("y")
		same(t, "state of the fork", b.guest("y", "systemctl is-system-running; systemctl --failed --no-legend >&2"), "running")
		same(t, "what the fork's units know", b.guest("y", "systemctl is-active counter ssh systemd-journald; hostname"), "active\nactive\nactive\ny")
		same(t, "ssh to the fork", b.must("ssh", "y", "--", "hostname"), "y")
	})
	b.must("ssh-config", "--uninstall")
	after, err := os.ReadFile(known)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "the user's known_hosts", string(after), mine)
}
