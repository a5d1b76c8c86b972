package scripts

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// makeTemplate makes a state directory with one image ("tiny") and one kernel ("test"), once for
// all scripts: each begins with a copy.
func makeTemplate(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "bgr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		endDaemon(t, dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Log(err)
		}
	})
	env := append(os.Environ(), environment(dir)...)
	env = append(env, "HOME="+filepath.Join(dir, "home"))
	root, kernel, modules := filepath.Join(dir, "root"), filepath.Join(dir, "vmlinux"), filepath.Join(dir, "6.1.0-test")
	// An ELF header is all that is looked at: nothing boots it.
	elf := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 4096)...)
	err = errors.Join(
		os.MkdirAll(filepath.Join(root, "etc"), 0o755), os.MkdirAll(filepath.Join(dir, "home"), 0o700), os.MkdirAll(modules, 0o755),
		os.MkdirAll(filepath.Join(root, "bin"), 0o755),
		os.WriteFile(filepath.Join(root, "bin", "sh"), elf, 0o755), //nolint:gosec // a program of a guest
		os.MkdirAll(filepath.Join(root, "usr", "bin"), 0o755),
		os.WriteFile(filepath.Join(root, "usr", "bin", "git"), elf, 0o755), //nolint:gosec // the same
		os.WriteFile(kernel, elf, 0o644),
		os.WriteFile(filepath.Join(modules, "modules.dep"), nil, 0o644),
		os.WriteFile(filepath.Join(modules, "modules.builtin"), []byte(builtin), 0o644),
	)
	if err != nil {
		t.Fatal(err)
	}
	// The daemon packs the agent that lies beside it; nobody runs this one.
	program, err := exec.LookPath("bangerd")
	if err != nil {
		t.Fatal(err)
	}
	// Another user of a script runs them, too.
	if err := os.Chmod(filepath.Dir(filepath.Dir(program)), 0o711); err != nil { //nolint:gosec // so
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(program), "banger-agent"), elf, 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	banger := func(args ...string) {
		t.Helper()
		cmd := exec.Command("banger", args...)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			log, _ := os.ReadFile(filepath.Join(dir, "s", "bangerd.log"))
			t.Fatalf("banger %v: %v\n%s\n%s", args, err, out, log)
		}
	}
	banger("image", "import", "--name", "tiny", root)
	banger("kernel", "import", "--name", "test", "--modules", modules, kernel)
	banger("run", "--rm", "--", "true") // makes the initramfs
	banger("daemon", "stop")
	return filepath.Join(dir, "s")
}

// builtin says that the kernel needs no modules to boot.
const builtin = "kernel/virtio_mmio.ko\nkernel/virtio_blk.ko\nkernel/virtio_net.ko\nkernel/virtio_console.ko\nkernel/ext4.ko\n"

// copyState copies a state directory of a daemon that has ended; there are no VMs in it.
func copyState(from, to string) error {
	out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput()
	if err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	return nil
}

// endDaemon ends what a script's banger has running: its VMs, then its daemon.
func endDaemon(t interface{ Log(...any) }, dir string) {
	env := append(os.Environ(), environment(dir)...)
	env = append(env, "HOME="+filepath.Join(dir, "home"))
	run := func(program string, args ...string) {
		cmd := exec.Command(program, args...)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Log("at the end: ", program, args, err, string(out))
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "s", "bangerd.lock")); err != nil {
		return // never used
	}
	run("timeout", "60", "sh", "-c", "banger rm -f $(banger ps -aq); banger daemon stop")
	killVMMs(dir)
	killDaemon(t, filepath.Join(dir, "s", "bangerd.lock"))
}

// killDaemon ends a daemon that has not taken the request to: it is whoever holds the lock.
func killDaemon(t interface{ Log(...any) }, path string) {
	f, err := os.Open(path)
	if err != nil {
		return // none has ever run
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		return // nobody holds it
	}
	data, err := os.ReadFile(path)
	if pid, perr := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && perr == nil && pid > 1 {
		t.Log("killing daemon ", pid)
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended just now
	}
}

// killVMMs ends what a script that failed has left running below dir.
func killVMMs(dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "s", "vms", "*", "handles.json")) // the pattern is well-formed
	for _, file := range files {
		var handles struct {
			VMM struct {
				PID int `json:"pid"`
			} `json:"vmm"`
		}
		data, err := os.ReadFile(file)
		if err != nil || json.Unmarshal(data, &handles) != nil || handles.VMM.PID <= 1 {
			continue
		}
		line, err := os.ReadFile("/proc/" + strconv.Itoa(handles.VMM.PID) + "/cmdline")
		if err == nil && bytes.Contains(line, []byte(dir+"/")) {
			_ = syscall.Kill(handles.VMM.PID, syscall.SIGKILL) // it may have ended just now
		}
	}
}
