package machine

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"banger/api"
)

// killDaemon ends bangerd as a crash would.
func (b *box) killDaemon() {
	b.t.Helper()
	info := b.info()
	if err := syscall.Kill(info.PID, syscall.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
	eventually(b.t, "bangerd is dead", func() bool { return !runs(info.PID) })
}

// runs tells whether the process exists and is no zombie.
func runs(pid int) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func (b *box) info() api.Info {
	b.t.Helper()
	var info api.Info
	decode(b.t, b.must("info", "--json"), &info)
	return info
}

// TestDaemonKilled: kill -9 of bangerd costs no VM anything.
func TestDaemonKilled(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "one")
	b.must("run", "-d", "--name", "two", "--net", "none")
	boots := map[string]string{}
	for _, name := range []string{"one", "two"} {
		boots[name] = b.guest(name, "cat /proc/sys/kernel/random/boot_id")
	}
	one, two := b.show("one"), b.show("two")
	alive := func(t *testing.T, b *box) {
		for name, boot := range boots {
			same(t, "boot id of "+name, b.guest(name, "cat /proc/sys/kernel/random/boot_id"), boot)
			same(t, "state of "+name, b.show(name).State, api.StateRunning)
		}
	}

	b.sub("kill -9", func(t *testing.T, b *box) {
		b.killDaemon()
		alive(t, b)
	})
	b.sub("kill -9 in the middle of an exec", func(t *testing.T, b *box) {
		cmd := b.command(t.Context(), filepath.Join(b.bin, "banger"), "exec", "one", "--", "sh", "-c", "echo begun; sleep 600")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		b.killDaemon()
		if err := cmd.Wait(); err == nil {
			t.Error("the exec ended as if nothing had happened")
		}
		alive(t, b)
	})
	b.sub("kill -9 and an emptied runtime directory", func(t *testing.T, b *box) {
		b.killDaemon()
		if err := os.RemoveAll(b.runtime()); err != nil {
			t.Fatal(err)
		}
		alive(t, b)
	})
	b.sub("a stale socket", func(t *testing.T, b *box) {
		b.killDaemon()
		if _, err := os.Stat(b.socket()); err != nil {
			t.Fatalf("the killed daemon's socket should be there: %v", err)
		}
		alive(t, b)
	})
	b.sub("daemon stop", func(t *testing.T, b *box) {
		b.must("daemon", "stop")
		alive(t, b)
	})
	b.sub("the main command's output and end", func(t *testing.T, b *box) {
		b.must("run", "-d", "--name", "main", "--net", "none", "--", "sh", "-c", "echo before; sleep 8; echo after; exit 7")
		b.killDaemon()
		r := b.banger("wait", "main")
		if r.code != 7 && strings.TrimSpace(r.stdout) != "7" {
			t.Errorf("exit code of the main command: %v", r)
		}
		same(t, "logs", b.must("logs", "main"), "before\nafter")
	})
	b.killDaemon()
	b.must("rm", "-f", "one")
	b.checkGone(one)
	b.must("rm", "-f", "two", "main")
	b.checkGone(two)
	b.checkNothingOfVMs()
}

// TestHandles: whatever became of handles.json, the record agrees with what is true, a
// stranger's process is left alone, and delete leaves nothing behind.
func TestHandles(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	stranger := b.net.start("sleep", "3600")
	damage := []struct {
		name string
		do   func(t *testing.T, path string)
	}{
		{"missing", func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}},
		{"corrupt", func(t *testing.T, path string) { overwrite(t, path, []byte("{\"vmm\": {\"pid\"")) }},
		{"empty", func(t *testing.T, path string) { overwrite(t, path, nil) }},
		{"foreign pid", func(t *testing.T, path string) {
			var h map[string]any
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			decode(t, string(text), &h)
			h["vmm"] = map[string]any{"pid": stranger.Process.Pid, "start_time": startTime(t, stranger.Process.Pid)}
			text, err = json.Marshal(h)
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, path, text)
		}},
	}
	for _, d := range damage {
		b.sub(d.name, func(t *testing.T, b *box) {
			b.must("run", "-d", "--name", "x")
			vm := b.show("x")
			b.killDaemon()
			d.do(t, b.handles(vm))
			now := b.show("x")
			switch now.State {
			case api.StateRunning:
				same(t, "exec", b.guest("x", "hostname"), "x")
			case api.StateStopped:
				b.checkVMMsGone(now)
			default:
				t.Errorf("state %s", now.State)
			}
			b.must("rm", "-f", "x")
			b.checkGone(vm)
			b.checkNothingOfVMs()
			if !runs(stranger.Process.Pid) {
				t.Fatal("banger ended a stranger's process")
			}
		})
	}
}

// TestVMMDies: a VMM that is gone while nobody looked is noticed, and what it held is torn down.
func TestVMMDies(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x")
	vm := b.show("x")
	kill := func(b *box) {
		pid := b.vmm(vm)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	b.sub("under the daemon's eyes", func(t *testing.T, b *box) {
		kill(b)
		b.must("wait", "x", "--for", "stopped", "--timeout", patience(patient).String())
		same(t, "state", b.show("x").State, api.StateStopped)
		if links := b.net.links(); len(links) > 2 {
			t.Errorf("links: %v", links)
		}
	})
	b.sub("while the daemon was dead", func(t *testing.T, b *box) {
		b.must("start", "x")
		b.killDaemon()
		kill(b)
		same(t, "state", b.show("x").State, api.StateStopped)
		b.must("start", "x")
		same(t, "exec", b.guest("x", "hostname"), "x")
	})
}

// vmm finds the process of a VM's hypervisor without asking banger.
func (b *box) vmm(vm api.VM) int {
	b.t.Helper()
	for _, pid := range b.net.processes() {
		if line := commandLine(pid); isVMM(line) && strings.Contains(line, vm.ID) {
			return pid
		}
	}
	b.t.Fatalf("VM %s has no VMM", vm.Name)
	return 0
}

func overwrite(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// startTime is field 22 of /proc/PID/stat; the name in field 2 may hold spaces.
func startTime(t *testing.T, pid int) uint64 {
	t.Helper()
	out, err := exec.Command("sed", "s/.*) //", "/proc/"+strconv.Itoa(pid)+"/stat").Output()
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(strings.Fields(string(out))[19], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
