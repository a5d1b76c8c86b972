package machine

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
)

// TestNeverReady: a guest that does not come up in time is shown and kept, unless --rm.
func TestNeverReady(t *testing.T) {
	t.Parallel()
	b := newBox(t, setting("ready_timeout", "1s")) // no emulated kernel boots so fast
	if b.info().Accel != "tcg" {
		t.Log("with KVM one second may be enough: this test then proves the timing only")
	}
	b.fails(125, []string{"ready", "console"}, "run", "-d", "--name", "slow")
	vm := b.show("slow")
	if vm.LastError == nil || vm.LastError.Code != api.CodeNotReady {
		t.Errorf("%+v", vm.LastError)
	}
	b.must("rm", "-f", "slow")
	b.checkGone(vm)
	b.fails(125, []string{"ready"}, "run", "--rm", "--name", "slow", "--", "true")
	same(t, "VMs after --rm", b.must("ps", "-aq"), "")
	b.checkNothingOfVMs()
}

// TestIgnoresStop: a guest that does not answer is forced after the time-out, and stop succeeds.
func TestIgnoresStop(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x", "--net", "none")
	vm := b.show("x")
	if err := syscall.Kill(b.vmm(vm), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	b.must("stop", "--timeout", "2s", "x")
	if took := time.Since(begin); took < 2*time.Second || took > 20*time.Second {
		t.Errorf("stop took %s", took)
	}
	same(t, "state", b.show("x").State, api.StateStopped)
	b.checkVMMsGone(vm)
}

// TestInterrupted: Ctrl-C before the command runs undoes everything, after that it is the command's.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.sub("before", func(t *testing.T, b *box) {
		cmd := b.command(t.Context(), filepath.Join(b.bin, "banger"), "run", "--name", "cut", "--", "true")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the VMM runs", func() bool {
			for _, pid := range b.net.processes() {
				if isVMM(commandLine(pid)) {
					return true
				}
			}
			return false
		})
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // its exit code says it
		same(t, "exit code", cmd.ProcessState.ExitCode(), 130)
		same(t, "VMs", b.must("ps", "-aq"), "")
		b.checkNothingOfVMs()
	})
	b.sub("after", func(t *testing.T, b *box) {
		cmd := b.command(t.Context(), filepath.Join(b.bin, "banger"), "run", "--name", "x", "--", "sh", "-c", "trap 'echo bye; exit 4' INT; echo begun; while :; do sleep 0.1; done")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		awaitText(t, out, "begun")
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		same(t, "exit code is the command's", cmd.ProcessState.ExitCode(), 4)
		same(t, "the VM runs on", b.show("x").State, api.StateRunning)
	})
}

// TestRefused: what cannot work is refused with a sentence and a hint, and leaves nothing.
func TestRefused(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	for _, tt := range []struct {
		words []string
		args  []string
	}{
		{[]string{"no-such", "banger image list"}, []string{"run", "--image", "no-such", "--", "true"}},
		{[]string{"no directory 'debian'. Image: banger run --image debian. Command: banger run -- debian"}, []string{"run", "debian"}},
		{[]string{"Bad_Name"}, []string{"run", "--name", "Bad_Name", "--", "true"}},
		{[]string{"cpus"}, []string{"run", "--cpus", "0", "--", "true"}},
		{[]string{"CPUs"}, []string{"run", "--cpus", "10000", "--", "true"}},
		{[]string{"memory"}, []string{"run", "--memory", "1M", "--", "true"}},
		{[]string{"memory"}, []string{"run", "--memory", "100T", "--", "true"}},
		{[]string{"size"}, []string{"run", "--disk-size", "twelve", "--", "true"}},
		{[]string{"net"}, []string{"run", "--net", "carrier-pigeon", "--", "true"}},
	} {
		r := b.banger(tt.args...)
		same(t, strings.Join(tt.args, " ")+": exit code", r.code, 125)
		for _, w := range tt.words {
			if !strings.Contains(strings.ToLower(r.stderr), strings.ToLower(w)) {
				t.Errorf("stderr lacks %q: %v", w, r)
			}
		}
	}
	same(t, "VMs", b.must("ps", "-aq"), "")

	b.sub("a name that is taken", func(t *testing.T, b *box) {
		b.must("create", "--name", "x")
		b.fails(125, []string{"x"}, "run", "--name", "x", "--", "true")
		same(t, "VMs", len(strings.Fields(b.must("ps", "-aq"))), 1)
	})
	b.sub("a second daemon on the same state", func(t *testing.T, b *box) {
		r := b.run(nil, filepath.Join(b.bin, "bangerd"))
		if r.code == 0 || r.stderr == "" {
			t.Errorf("%v", r)
		}
		same(t, "the first one serves", b.banger("ps").code, 0)
	})
	b.sub("another user's state directory", func(t *testing.T, b *box) {
		uid, env := b.uid, b.env
		b.uid, b.gid = 65534, 65534
		b.env = append(append([]string{}, env...), "BANGER_RUNTIME_DIR="+filepath.Join(b.dir, "r2"))
		r := b.banger("ps")
		b.uid, b.gid, b.env = uid, uid, env
		if r.code == 0 || r.stderr == "" {
			t.Errorf("%v", r)
		}
	})
}

// TestMissingQEMU: without a VMM nothing is created, and the hint installs it.
func TestMissingQEMU(t *testing.T) {
	t.Parallel()
	b := newBox(t, setting("qemu_binary", "qemu-system-none"))
	b.fails(125, []string{"qemu-system-none"}, "run", "--", "true")
	same(t, "VMs", b.must("ps", "-aq"), "")
	same(t, "doctor's exit code", b.banger("doctor").code, 1)
}
