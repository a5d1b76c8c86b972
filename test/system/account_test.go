package system

import (
	"bytes"
	"context"
	"encoding/json"
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
)

const (
	systemState = "/var/lib/banger"
	userHome    = "/home/own"
	prepared    = "/lab/.cache/test-state"
)

// account is whose commands are run.
type account struct {
	name, home string
	uid        int
	groups     []uint32
	// banger is the program that is called: the installed one, or where it lies.
	banger string
}

var (
	root = account{name: "root", home: "/root", banger: "/usr/local/bin/banger"}
	// dev has the installed daemon, own has units of its own systemd.
	dev = account{name: "dev", home: "/home/dev", uid: 1000, banger: "/usr/local/bin/banger"}
)

// own is the user with units of its own, once it is there.
func own(t *testing.T) account {
	t.Helper()
	uid, err := strconv.Atoi(root.must(t, "id", "-u", "own"))
	if err != nil {
		t.Fatal(err)
	}
	a := account{name: "own", home: userHome, uid: uid, banger: "/lab/bin/banger"}
	for _, g := range strings.Fields(root.must(t, "id", "-G", "own")) {
		n, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		a.groups = append(a.groups, uint32(n))
	}
	return a
}

// result is how a command ended.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
}

// commandTime is far more than any command takes here.
const commandTime = 3 * time.Minute

func (a account) run(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + a.home, "USER=" + a.name, "LOGNAME=" + a.name, "LANG=C.UTF-8", "TERM=dumb"}
	if a.uid != 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("XDG_RUNTIME_DIR=/run/user/%d", a.uid))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.uid), Groups: a.groups}}
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return result{strings.TrimRight(out.String(), "\n"), errs.String(), cmd.ProcessState.ExitCode()}
}

// must returns what the command says; it has to succeed.
func (a account) must(t *testing.T, args ...string) string {
	t.Helper()
	r := a.run(t, args...)
	if r.code != 0 {
		t.Fatalf("%s: %v: %v", a.name, args, r)
	}
	return r.stdout
}

func (a account) bangerMust(t *testing.T, args ...string) string {
	t.Helper()
	return a.must(t, append([]string{a.banger}, args...)...)
}

// guest runs a line of shell in a VM.
func (a account) guest(t *testing.T, vm, line string) string {
	t.Helper()
	return a.bangerMust(t, "exec", vm, "--", "sh", "-c", line)
}

func (a account) show(t *testing.T, vm string) api.VM {
	t.Helper()
	var v api.VM
	if err := json.Unmarshal([]byte(a.bangerMust(t, "show", "--json", vm)), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// trace is what tells a running VM from one that was booted again: its kernel's boot, what is in its memory alone, its VMM.
type trace struct{ Boot, Memory, VMM string }

// mark leaves something in the VM's memory and returns its trace.
func (a account) mark(t *testing.T, vm string) trace {
	t.Helper()
	a.guest(t, vm, "echo "+vm+"-was-here >/run/kept; echo kept >/root/kept; sync")
	return a.trace(t, vm)
}

func (a account) trace(t *testing.T, vm string) trace {
	t.Helper()
	lines := strings.SplitN(a.guest(t, vm, "cat /proc/sys/kernel/random/boot_id; cat /run/kept 2>/dev/null || true"), "\n", 2)
	return trace{Boot: lines[0], Memory: strings.Join(lines[1:], ""), VMM: a.vmm(t, vm)}
}

// vmm is the process that runs the VM, as it stands in handles.json.
func (a account) vmm(t *testing.T, vm string) string {
	t.Helper()
	v := a.show(t, vm)
	var h struct {
		VMM struct {
			PID   int    `json:"pid"`
			Start uint64 `json:"start_time"`
		} `json:"vmm"`
	}
	if err := json.Unmarshal([]byte(read(t, filepath.Join(v.Runtime.VMDir, "handles.json"))), &h); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(h.VMM.PID, 0); err != nil {
		t.Errorf("the VMM of %s, process %d: %v", vm, h.VMM.PID, err)
	}
	return fmt.Sprintf("%d/%d", h.VMM.PID, h.VMM.Start)
}

// started waits until the VM is ready that nobody but the host's boot has started.
func (a account) started(t *testing.T, vm string) {
	t.Helper()
	for deadline := time.Now().Add(commandTime); a.show(t, vm).State != api.StateRunning; time.Sleep(200 * time.Millisecond) {
		if v := a.show(t, vm); time.Now().After(deadline) || v.LastError != nil {
			t.Fatalf("%s is %s as the host has booted: %+v", vm, v.State, v.LastError)
		}
	}
	a.bangerMust(t, "wait", "--for", "ready", vm)
}

// sameGuest: it has gone on from where it was, by another VMM.
func sameGuest(t *testing.T, vm string, got, want trace) {
	t.Helper()
	same(t, vm+": boot id", got.Boot, want.Boot)
	same(t, vm+": what is in memory", got.Memory, want.Memory)
}

// settings are for small VMs that are started as VMs are by default, but for the pool: nothing here needs VMs that wait.
func settings() string {
	return fmt.Sprintf("accel = %q\n", accel()) + `image = "minimal"
memory = "128M"
cpus = 1
disk_size = "64M"
pool = 0
ready_timeout = "10m"
stop_timeout = "50s"
`
}

// accel is how guests are run: by default a lab host's only way to have them in time.
func accel() string {
	if a := os.Getenv("BANGER_TEST_ACCEL"); a != "" {
		return a
	}
	return "kvm"
}

// configure writes the user's config.toml.
func (a account) configure(t *testing.T, more string) {
	t.Helper()
	if a.uid == 0 {
		write(t, "/etc/banger/config.toml", settings()+more)
		return
	}
	write(t, filepath.Join(a.home, ".config/banger/config.toml"), settings()+more)
	root.must(t, "chown", "-R", a.name+":", filepath.Join(a.home, ".config"))
}

// giveImages puts the prepared images into a state directory. They are sealed files, and stay root's: hard links to them are for
// all. All that is written is the user's.
func (a account) giveImages(t *testing.T, state string) {
	t.Helper()
	for _, name := range []string{"images", "kernels", "banger.db"} {
		root.must(t, "rm", "-rf", filepath.Join(state, name))
	}
	root.must(t, "cp", "-al", filepath.Join(prepared, "images"), filepath.Join(prepared, "kernels"), state)
	root.must(t, "cp", "-a", filepath.Join(prepared, "banger.db"), state)
	root.must(t, "find", state, "(", "-type", "d", "-o", "-name", "banger.db", ")", "-exec", "chown", a.name+":", "{}", "+")
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
