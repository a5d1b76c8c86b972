package machine

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/api"
)

// idleLimit is the policy of these tests' VMs, and awakeFor how long one that is in use is watched: long enough to be suspended twice.
const (
	idleLimit = "2s"
	awakeFor  = 6 * time.Second
)

// asleep waits until a VM is suspended for idleness.
func (b *box) asleep(vm string) {
	b.t.Helper()
	eventually(b.t, vm+" is suspended", func() bool { return b.show(vm).State == api.StateSuspended })
	same(b.t, "why it does not run", b.show(vm).StopReason, "idle")
}

// staysAwake holds that a VM runs for awakeFor, as the same process.
func (b *box) staysAwake(vm, why string) {
	b.t.Helper()
	process := b.vmm(b.show(vm))
	time.Sleep(awakeFor)
	if now := b.show(vm); now.State != api.StateRunning || b.vmm(now) != process {
		b.t.Errorf("%s is %s, or another process: %s", vm, now.State, why)
	}
}

// wakes runs a command that wants something of a sleeping VM, and logs how long that took.
func (b *box) wakes(vm, how string, fn func()) {
	b.t.Helper()
	b.asleep(vm)
	begin := time.Now()
	fn()
	b.t.Logf("%s: woke and was answered in %v", how, time.Since(begin).Round(time.Millisecond))
	same(b.t, "state after "+how, b.show(vm).State, api.StateRunning)
}

// keeps runs banger until stop is called, or the test ends.
func (b *box) keeps(args ...string) (stop func()) {
	b.t.Helper()
	cmd := b.command(context.Background(), filepath.Join(b.bin, "banger"), args...)
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // passed on: to the command, or to ssh
		_ = cmd.Wait()
	})
	b.t.Cleanup(stop)
	return stop
}

// echoes sends a line over a connection and waits until it has come back.
func echoes(t *testing.T, conn net.Conn) {
	t.Helper()
	const line = "hello\n"
	buf := make([]byte, len(line))
	if err := conn.SetDeadline(time.Now().Add(patience(patient))); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(line)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != line {
		t.Fatalf("%q came back: %v", buf, err)
	}
}

// TestIdleSuspend: a VM that nobody uses is suspended, one that anybody or anything uses is not.
func TestIdleSuspend(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x")
	b.guest("x", "echo kept >/run/tmpfs; echo disk >/root/file; sleep 1000 >/dev/null 2>&1 & echo $! >/run/pid")
	boot := b.guest("x", "cat /proc/sys/kernel/random/boot_id")
	b.must("set", "x", "--idle-suspend", idleLimit)
	b.asleep("x")
	b.checkVMMsGone(b.show("x"))
	same(t, "boot id", b.guest("x", "cat /proc/sys/kernel/random/boot_id"), boot)
	same(t, "files", b.guest("x", "cat /run/tmpfs /root/file"), "kept\ndisk")
	same(t, "a process", b.guest("x", "kill -0 $(cat /run/pid) && echo lives"), "lives")

	b.sub("not while a command runs", func(_ *testing.T, b *box) {
		stop := b.keeps("exec", "x", "--", "sleep", "1000")
		b.staysAwake("x", "a command runs")
		stop()
		b.asleep("x")
	})
	b.sub("not while a forward is open", func(_ *testing.T, b *box) {
		b.guest("x", "nc -ll -p 7000 -e cat >/dev/null 2>&1 &")
		b.must("wait", "--for", "port:7000", "--timeout", "3m", "x")
		b.forward("x", "17000:7000")
		b.asleep("x") // listening is no use
		conn := b.net.dial("127.0.0.1:17000")
		echoes(b.t, conn)
		b.staysAwake("x", "a forward is open")
		if err := conn.Close(); err != nil {
			b.t.Error(err)
		}
		b.asleep("x")
	})
	b.sub("not while a connection is open", func(_ *testing.T, b *box) {
		b.must("exec", "x", "--", "true")
		conn := b.net.dial(b.show("x").Runtime.GuestIP + ":7000")
		b.staysAwake("x", "a connection to its address is open")
		if err := conn.Close(); err != nil {
			b.t.Error(err)
		}
		b.asleep("x")
	})
	b.sub("not while it computes", func(_ *testing.T, b *box) {
		b.guest("x", "(while [ ! -e /run/enough ]; do :; done) >/dev/null 2>&1 &")
		b.staysAwake("x", "it computes")
		b.guest("x", "touch /run/enough")
		b.asleep("x")
	})
	b.sub("not while it is paused", func(t *testing.T, b *box) {
		b.must("start", "x")
		b.must("pause", "x")
		time.Sleep(awakeFor)
		same(t, "state", b.show("x").State, api.StatePaused)
		b.must("unpause", "x")
		b.asleep("x")
	})
	b.sub("not while its main command runs", func(t *testing.T, b *box) {
		b.must("run", "-d", "--name", "y", "--idle-suspend", idleLimit, "--", "sh", "-c", "while [ ! -e /run/enough ]; do sleep 1; done")
		b.staysAwake("y", "its main command runs")
		b.guest("y", "touch /run/enough")
		b.must("wait", "--timeout", "3m", "y")
		b.asleep("y")
		b.must("rm", "-f", "y")
	})
	b.sub("not without a policy", func(t *testing.T, b *box) {
		b.must("start", "x")
		b.must("set", "x", "--idle-suspend", "0")
		b.staysAwake("x", "it has no policy")
		b.must("suspend", "x")
		b.fails(125, []string{"x is suspended", "banger vm start x"}, "exec", "x", "--", "true")
		b.must("set", "x", "--idle-suspend", idleLimit)
		b.must("exec", "x", "--", "true")
	})
}

// TestIdleWakes: whoever wants something of a sleeping guest wakes it, and need not know.
func TestIdleWakes(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x", "--idle-suspend", idleLimit)
	b.guest("x", "echo kept >/run/tmpfs; mkdir /root/dir; echo disk >/root/dir/file; nc -ll -p 7000 -e cat >/dev/null 2>&1 &")
	file := filepath.Join(b.dir, "file")
	if err := os.WriteFile(file, []byte("through\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.wakes("x", "exec", func() { same(t, "tmpfs", b.guest("x", "cat /run/tmpfs"), "kept") })
	b.wakes("x", "cp in", func() { b.must("cp", file, "x:/run/") })
	b.wakes("x", "cp out", func() { b.must("cp", "x:/run/file", filepath.Join(b.dir, "back")) })
	same(t, "there and back", contains(filepath.Join(b.dir, "back"), "through"), true)
	dir := filepath.Join(b.dir, "dir")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b.wakes("x", "cp of a directory in", func() { b.must("cp", dir, "x:/run/") })
	b.wakes("x", "cp of a directory out", func() { b.must("cp", "x:/root/dir", filepath.Join(b.dir, "out")) })
	same(t, "directory", contains(filepath.Join(b.dir, "out", "file"), "disk"), true)

	b.asleep("x")
	b.forward("x", "17001:7000") // while it sleeps
	for range 2 {
		b.wakes("x", "port-forward", func() {
			conn := b.net.dial("127.0.0.1:17001")
			defer conn.Close()
			echoes(t, conn)
		})
	}
	b.asleep("x")
	b.killDaemon()
	b.wakes("x", "exec by a new daemon", func() { same(t, "tmpfs", b.guest("x", "cat /run/tmpfs"), "kept") })
	b.killDaemon()
	b.must("ps") // the policy goes on with the next daemon
	b.asleep("x")

	b.sub("many at once", func(t *testing.T, b *box) {
		starts := func() int { return strings.Count(b.must("events", "--json"), `"kind":"vm.starting"`) }
		before := starts()
		done := make(chan result)
		for range 4 {
			go func() { done <- b.banger("exec", "x", "--", "echo", "up") }()
		}
		for range 4 {
			if r := <-done; r.stdout != "up\n" || r.code != 0 {
				t.Errorf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
			}
		}
		same(t, "starts", starts()-before, 1)
	})
	b.sub("in the moment of falling asleep", func(t *testing.T, b *box) {
		b.must("set", "x", "--idle-suspend", "1s")
		for i := range 20 { // each at another moment of the policy's second
			time.Sleep(900*time.Millisecond + time.Duration(i)*40*time.Millisecond)
			if r := b.banger("exec", "x", "--", "cat", "/run/tmpfs"); r.code != 0 || r.stdout != "kept\n" {
				t.Errorf("exit code %d: %s%s", r.code, r.stdout, r.stderr)
			}
		}
	})
}

// TestIdleWakesSSH: OpenSSH, by banger's own command and by the user's configuration, wakes a VM of the default image.
func TestIdleWakesSSH(t *testing.T) {
	t.Parallel()
	b := newBox(t, setting("image", "debian"), setting("memory", "512M"))
	b.must("ssh-config", "--install")
	b.must("run", "-d", "--name", "x", "--idle-suspend", "3s")
	b.wakes("x", "banger ssh", func() { same(t, "banger ssh", b.must("ssh", "x", "--", "id", "-un"), "root") })
	b.wakes("x", "ssh", func() {
		r := b.run(nil, "ssh", "-F", filepath.Join(b.home, ".ssh", "config"), "-o", "BatchMode=yes", "root@x.vm", "id -un")
		same(t, "ssh: "+r.stderr, r.stdout, "root\n")
	})
	stop := b.keeps("ssh", "x", "--", "sleep", "1000")
	b.staysAwake("x", "an ssh session is open")
	stop()
	b.asleep("x")
	b.must("start", "x")
	same(t, "system", b.guest("x", "systemctl is-system-running"), "running")
}
