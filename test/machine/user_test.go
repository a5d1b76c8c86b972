package machine

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"banger/api"
)

// newUserBox makes a box for an ordinary user that is made for it, with nothing prepared.
func newUserBox(t *testing.T) *box {
	t.Helper()
	needRoot(t)
	b := emptyBox(t)
	b.makeUser()
	return b
}

// makeUser makes an ordinary user whose box it is.
func (b *box) makeUser() {
	t := b.t
	t.Helper()
	b.name = fmt.Sprintf("bt%d-%d", os.Getpid()%100000, boxes.Add(1))
	args := []string{"--no-create-home", "--home-dir", b.home, "--shell", "/bin/sh"}
	if _, accel := backend(); accel == "kvm" {
		args = append(args, "--groups", "kvm") // as doctor would tell this user
	}
	if out, err := exec.Command("useradd", append(args, b.name)...).CombinedOutput(); err != nil {
		t.Fatalf("useradd: %v\n%s", err, out)
	}
	// The user goes when nothing is left that runs or belongs to it.
	b.last = func() {
		if out, err := exec.Command("userdel", b.name).CombinedOutput(); err != nil {
			t.Errorf("userdel: %v\n%s", err, out)
		}
	}
	u, err := user.Lookup(b.name)
	if err != nil {
		t.Fatal(err)
	}
	if b.uid, err = strconv.Atoi(u.Uid); err != nil {
		t.Fatal(err)
	}
	if b.gid, err = strconv.Atoi(u.Gid); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{b.dir, b.home, b.state()} {
		if err := os.Chown(d, b.uid, b.gid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(b.state(), 0o700); err != nil {
		t.Fatal(err)
	}
	b.env = append(b.env, "USER="+b.name, "LOGNAME="+b.name)
	b.readable()
}

// readable gives the user the programs: a clone of the repository may lie where it cannot look.
func (b *box) readable() {
	b.t.Helper()
	bin := filepath.Join(b.dir, "bin")
	if out, err := exec.Command("cp", "-r", b.bin, bin).CombinedOutput(); err != nil {
		b.t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.Command("chmod", "-R", "a+rX", bin).CombinedOutput(); err != nil {
		b.t.Fatalf("%v\n%s", err, out)
	}
	b.env = append(b.env, "PATH="+bin+":"+os.Getenv("PATH"))
	b.bin = bin
}

// build runs what fetches packages, with a daemon outside of the box's network that is gone afterwards.
func (b *box) build(args ...string) {
	b.t.Helper()
	b.outside = true
	defer func() { b.outside = false }()
	b.must(args...)
	b.must("daemon", "stop")
}

// TestUser is the whole flow without root.
func TestUser(t *testing.T) {
	t.Parallel()
	b := newUserBox(t)
	b.build("kernel", "build", "debian")
	b.build("image", "build", "minimal")
	b.userFlow("minimal")
	b.sub("a VM's root becomes an image, and its chains stay short", func(t *testing.T, b *box) {
		b.must("run", "-d", "--name", "src")
		b.guest("src", "echo saved >/srv.txt; echo kept >/root/kept")
		b.must("image", "save", "src", "mine")
		same(t, "a file", b.must("run", "--rm", "--cold", "--image", "mine", "--", "cat", "/srv.txt"), "saved")
		b.forks("src", 8)
		eventually(t, "the chains of src are short", func() bool { return b.chain("src") < 9 })
		same(t, "files", b.guest("src", "echo 3 >/proc/sys/vm/drop_caches; cat /root/kept /srv.txt"), "kept\nsaved")
		b.must("rm", "-f", "src")
	})
}

// TestLongUserDebian is the same with the default image, which takes user namespaces to build.
func TestLongUserDebian(t *testing.T) {
	b := newUserBox(t)
	b.build("kernel", "build", "debian")
	b.build("image", "build", "debian")
	b.env = append(b.env, "BANGER_IMAGE=debian", "BANGER_MEMORY=512M")
	b.userFlow("debian")
	b.must("run", "-d", "--name", "s")
	same(t, "ssh without root", b.must("ssh", "s", "--", "id", "-un"), "root")
	b.must("ssh-config", "--install")
	for _, who := range []string{"root", "dev"} {
		r := b.run(nil, "ssh", "-o", "BatchMode=yes", who+"@s.vm", "id", "-un")
		same(t, "ssh through the Include: "+r.stderr, r.stdout, who+"\n")
	}
}

func (b *box) userFlow(image string) {
	t := b.t
	t.Helper()
	beyond := b.net.uplink()
	web := filepath.Join(b.dir, "web")
	if err := os.Mkdir(web, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(web, "index.html"), []byte("page\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	beyond.start("busybox", "httpd", "-f", "-p", "80", "-h", web)
	b.net.start("busybox", "httpd", "-f", "-p", "127.0.0.1:8089", "-h", web)

	if r := b.banger("doctor"); r.code != 0 {
		t.Errorf("doctor: %v", r)
	}
	same(t, "run", b.must("vm", "run", "--rm", "--name", "demo", "--", "cat", "/etc/hostname"), "demo")
	same(t, "VMs", b.must("ps", "-aq"), "")

	b.must("run", "-d", "--name", "x")
	vm := b.show("x")
	same(t, "image", vm.Spec.Image, image)
	same(t, "network", vm.Spec.Net, api.NetUser)
	same(t, "uid of the VMM", status(t, b.vmm(vm), "Uid"), strconv.Itoa(b.uid))

	fetch := func(host string) result {
		return b.banger("exec", "x", "--", "sh", "-c", "if command -v curl >/dev/null; then curl -sf -m 10 http://"+host+"/; else timeout 10 wget -q -O - http://"+host+"/; fi")
	}
	b.sub("the guest gets out", func(t *testing.T, b *box) {
		same(t, "page beyond", fetch(uplinkBeyond).stdout, "page\n")
	})
	b.sub("the host's loopback is not reachable", func(t *testing.T, b *box) {
		same(t, "the listener answers on the host", b.net.output("curl", "-sf", "-m", "10", "http://127.0.0.1:8089/"), "page\n")
		gateway := strings.Fields(b.guest("x", "ip route show default"))[2]
		for _, host := range []string{"127.0.0.1", gateway, uplinkHere, "10.0.2.2"} {
			if r := fetch(host + ":8089"); r.code == 0 || strings.Contains(r.stdout, "page") {
				t.Errorf("the guest reads from the host's loopback by %s: %v", host, r)
			}
		}
	})
	b.sub("stop, start, kill -9 of the daemon", func(t *testing.T, b *box) {
		b.guest("x", "echo kept >/root/f")
		b.must("stop", "x")
		b.must("start", "x")
		b.killDaemon()
		same(t, "file", b.guest("x", "cat /root/f"), "kept")
		same(t, "page beyond, after the daemon's death", fetch(uplinkBeyond).stdout, "page\n")
	})
	b.sub("snapshot, restore, another from it", func(t *testing.T, b *box) {
		b.guest("x", "echo then >/root/s")
		b.must("vm", "snapshot", "create", "x")
		b.guest("x", "echo now >/root/s")
		b.must("vm", "snapshot", "restore", "-f", "x", "s1")
		same(t, "file", b.guest("x", "cat /root/s"), "then")
		same(t, "page beyond, after a restore", fetch(uplinkBeyond).stdout, "page\n")
		same(t, "another", b.must("run", "--rm", "--snapshot", "x/s1", "--name", "y", "--", "sh", "-c", "hostname; cat /root/s"), "y\nthen")
		b.must("vm", "snapshot", "delete", "x", "s1")
		same(t, "snapshots left", len(b.files("snapshots")), 0)
	})
	b.sub("ports", func(t *testing.T, b *box) {
		b.guest("x", "if command -v busybox >/dev/null; then echo port >/tmp/index.html; busybox httpd -p 127.0.0.1:8080 -h /tmp; else "+perlServer+"; fi")
		b.must("wait", "--for", "port:8080", "--timeout", "3m", "x")
		b.forward("x", "18081:8080")
		same(t, "page", b.net.output("curl", "-sf", "-m", "10", "http://127.0.0.1:18081/"), "port\n")
	})
	b.sub("template, suspend, pause", func(t *testing.T, b *box) {
		b.must("run", "-d", "--name", "y", "--", "sh", "-c", counter)
		if steps := b.steps("y"); !has(steps, "thaw") || has(steps, "guest") {
			t.Errorf("it was not thawed: %v", steps)
		}
		var c counts
		c.goOn(b, "y")
		b.must("suspend", "y")
		b.checkVMMsGone(b.show("y"))
		b.killDaemon()
		b.must("start", "y")
		c.goOn(b, "y")
		same(t, "page beyond, after a thaw", b.guest("y", "if command -v curl >/dev/null; then curl -sf -m 10 http://"+uplinkBeyond+"/; else timeout 10 wget -q -O - http://"+uplinkBeyond+"/; fi"), "page")
		b.must("pause", "y")
		b.must("unpause", "y")
		c.goOn(b, "y")
		b.dies("vm.suspend/write", "suspend", "y")
		same(t, "state", b.settled("y").State, api.StateRunning)
		c.goOn(b, "y")
		b.must("rm", "-f", "y")
	})
	b.sub("forks", func(t *testing.T, b *box) {
		b.guest("x", "echo kept >/run/tmpfs")
		same(t, "names", b.must("fork", "x", "--count", "2", "--name", "f"), "f-1\nf-2")
		b.must("fork", "f-2", "--name", "g")
		for _, name := range []string{"f-1", "f-2", "g"} {
			same(t, name+": tmpfs", b.guest(name, "cat /run/tmpfs"), "kept")
		}
		b.checkNothingShared("x", "f-1", "f-2", "g")
		same(t, "page beyond, from a fork", b.must("exec", "g", "--", "sh", "-c", "if command -v curl >/dev/null; then curl -sf -m 10 http://"+uplinkBeyond+"/; else timeout 10 wget -q -O - http://"+uplinkBeyond+"/; fi"), "page")
		b.must("rm", "-f", "f-1", "f-2", "g")
	})
	b.must("rm", "-f", "x")
	b.checkGone(vm)
	b.checkNothingOfVMs()
}

// perlServer answers on 127.0.0.1:8080 in images without busybox; perl-base is in every Debian.
const perlServer = `perl -MIO::Socket::INET -e '$SIG{PIPE} = "IGNORE"; $s = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1", LocalPort => 8080, ReuseAddr => 1) or die;
	while ($c = $s->accept) { <$c>; print $c "HTTP/1.0 200 OK\r\n\r\nport\n"; close $c }' >/dev/null 2>&1 & sleep 0`

// status is the first word of a line of /proc/PID/status.
func status(t *testing.T, pid int, key string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.Fields(rest)[0]
		}
	}
	t.Fatalf("no %s in /proc/%d/status", key, pid)
	return ""
}
