package agent_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"banger/api/agentapi"
	"banger/internal/image/initramfs"
	"banger/internal/loud"
)

// lab is what a guest of these tests boots from.
type lab struct {
	dir, kernel, initramfs, modules string
}

func newLab(t testing.TB) lab {
	t.Helper()
	kernelDir := os.Getenv("BANGER_TEST_KERNEL_DIR")
	if kernelDir == "" { // what scripts/machine-state has prepared
		prepared, _ := filepath.Glob("../../.cache/test-state/kernels/*/vmlinuz")
		if len(prepared) == 0 {
			loud.Skip(t, "BANGER_TEST_KERNEL_DIR names no directory with vmlinuz and lib/modules, and make test has prepared none")
		}
		var err error
		if kernelDir, err = filepath.Abs(filepath.Dir(prepared[0])); err != nil { // VMMs start in /
			t.Fatal(err)
		}
	}
	for _, p := range []string{"qemu-system-x86_64", "mke2fs", "busybox"} {
		if _, err := exec.LookPath(p); err != nil {
			loud.Skip(t, "%v", err)
		}
	}
	mods, _ := filepath.Glob(filepath.Join(kernelDir, "lib/modules/*"))
	sealed, _ := filepath.Glob(filepath.Join(kernelDir, "boot/*/modules.dep"))
	for _, dep := range sealed { // an object of package image
		mods = append(mods, filepath.Dir(dep))
	}
	if len(mods) != 1 {
		t.Fatalf("%s holds modules of %d versions", kernelDir, len(mods))
	}
	l := lab{dir: t.TempDir(), kernel: filepath.Join(kernelDir, "vmlinuz"), modules: mods[0]}
	l.initramfs = filepath.Join(l.dir, "initramfs")
	agent := filepath.Join(l.dir, "agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", agent, "banger/cmd/banger-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the agent: %v\n%s", err, out)
	}
	f, err := os.Create(l.initramfs)
	if err == nil {
		err = initramfs.Build(f, initramfs.Spec{Agent: agent, ModulesDir: l.modules})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return l
}

// disk makes an ext4 image of size bytes that holds dir; an empty dir means a blank disk.
func (l lab) disk(t testing.TB, name, dir string, size int64) string {
	t.Helper()
	path := filepath.Join(l.dir, name)
	f, err := os.Create(path)
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if dir != "" {
		if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-d", dir, "-E", "root_owner=0:0", path).CombinedOutput(); err != nil {
			t.Fatalf("cannot make %s: %v: %s", name, err, out)
		}
	}
	return path
}

// busyboxRoot is a root with a shell and nothing else.
func busyboxRoot(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"bin", "sbin", "etc", "root", "home", "usr/lib"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bb, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(bb)
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(root, "bin/busybox"), string(data), 0o755)
	for _, a := range strings.Fields("sh sort wc tr cut grep head tail awk ls cat stat mount reboot poweroff halt sleep kill ps id dd df ip hostname test readlink sync rm touch mkdir chmod ln modprobe date nohup top uptime od true") {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", a)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("usr/lib", filepath.Join(root, "lib")); err != nil {
		t.Fatal(err)
	}
	return root
}

func put(t testing.TB, path, data string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), mode); err != nil {
		t.Fatal(err)
	}
}

// modulesDisk makes the disk that boot gives to every guest from then on, with
// modules.dep for busybox's modprobe.
func (l lab) modulesDisk(t testing.TB) {
	t.Helper()
	ready, err := filepath.Abs(filepath.Join(filepath.Dir(l.kernel), "modules.ext4"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(ready); err == nil {
		if err := os.Symlink(ready, filepath.Join(l.dir, "modules.img")); err != nil {
			t.Fatal(err)
		}
		return
	}
	dir := t.TempDir()
	version := filepath.Join(dir, filepath.Base(l.modules))
	if out, err := exec.Command("cp", "-rL", l.modules, version).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := os.Stat(filepath.Join(version, "modules.dep")); err != nil {
		put(t, filepath.Join(version, "modules.dep"), "kernel/fs/overlayfs/overlay.ko:\n", 0o644)
	}
	l.disk(t, "modules.img", dir, 200<<20)
}

// boot starts a guest from root and, if given, a work disk, with more for the kernel's
// command line and for QEMU.
func (l lab) boot(t testing.TB, root, work, params string, qemu ...string) *guest {
	t.Helper()
	g := l.start(t, root, work, params, qemu...)
	g.connect()
	return g
}

// start is boot without waiting for the agent.
func (l lab) start(t testing.TB, root, work, params string, qemu ...string) *guest {
	t.Helper()
	dir, err := os.MkdirTemp("", "bg") // sockets need short names
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, console: filepath.Join(dir, "console"), socket: filepath.Join(dir, "a"), qmp: filepath.Join(dir, "q"), ended: make(chan struct{})}
	drive := func(file, serial string, more string) []string {
		id := "d" + strings.ReplaceAll(serial, "-", "")
		return []string{"-drive", "if=none,id=" + id + ",file=" + file + ",format=raw,discard=unmap,detect-zeroes=unmap" + more,
			"-device", "virtio-blk-device,drive=" + id + ",serial=" + serial}
	}
	args := []string{"-machine", "microvm,acpi=on,pit=off,suppress-vmdesc=on", "-accel", "tcg,tb-size=128", "-cpu", "max,-erms,-fsrm",
		"-m", "256M", "-nodefaults", "-no-user-config", "-display", "none", "-kernel", l.kernel, "-initrd", l.initramfs,
		"-append", cmdline(t) + " " + params, "-serial", "file:" + g.console,
		"-qmp", "unix:" + g.qmp + ",server=on,wait=off",
		"-device", "virtio-serial-device", "-chardev", "socket,id=a,path=" + g.socket + ",server=on,wait=off",
		"-device", "virtserialport,chardev=a,name=" + agentapi.PortName,
		// A network that nothing is plugged into. With one port only QEMU would hold back all that is sent.
		"-netdev", "hubport,id=n,hubid=0", "-netdev", "hubport,id=m,hubid=0", "-device", "virtio-net-device,netdev=n,mac=52:54:00:00:00:01"}
	args = append(args, drive(root, agentapi.SerialRoot, "")...)
	modules := filepath.Join(l.dir, "modules.img")
	if _, err := os.Stat(modules); err == nil {
		args = append(args, drive(modules, agentapi.SerialModules, ",read-only=on")...)
	}
	if work != "" {
		args = append(args, drive(work, agentapi.SerialWork, "")...)
	}
	g.cmd = exec.Command("qemu-system-x86_64", append(args, qemu...)...)
	var stderr bytes.Buffer
	g.cmd.Stderr = &stderr
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.cmd.Wait(); close(g.ended) }()
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill()
		<-g.ended
		if t.Failed() {
			data, _ := os.ReadFile(g.console)
			t.Logf("console:\n%s\n%s", data, stderr.String())
		}
		_ = os.RemoveAll(dir)
	})
	return g
}

// cmdline is the command line that the agent's part of the boot was measured with.
func cmdline(t testing.TB) string {
	c := "console=ttyS0 quiet tsc=reliable nowatchdog no_timer_check net.ifnames=0 panic=-1 reboot=acpi"
	data, _ := os.ReadFile("/proc/cpuinfo")
	if m := regexp.MustCompile(`cpu MHz\s*: (\d+)\.(\d+)`).FindStringSubmatch(string(data)); m != nil {
		mhz, _ := strconv.Atoi(m[1])
		c += fmt.Sprintf(" tsc_early_khz=%d", mhz*1000)
	}
	return c
}
