package agent_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/frame"
	"banger/internal/frame/link"
	"banger/internal/image/initramfs"
)

// need fails or skips a test that this machine cannot run.
func need(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("BANGER_TEST_NO_SKIP") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf("SKIPPED, NOT TESTED: "+format, args...)
}

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
			need(t, "BANGER_TEST_KERNEL_DIR names no directory with vmlinuz and lib/modules, and make test has prepared none")
		}
		kernelDir = filepath.Dir(prepared[0])
	}
	for _, p := range []string{"qemu-system-x86_64", "mke2fs", "busybox"} {
		if _, err := exec.LookPath(p); err != nil {
			need(t, "%v", err)
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
	for _, a := range strings.Fields("sh wc tr cut grep head tail awk ls cat stat mount reboot poweroff halt sleep kill ps id dd df ip hostname test readlink sync rm touch mkdir chmod ln modprobe date nohup top uptime") {
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

// guest is a running QEMU with a session to the agent in it.
type guest struct {
	t       testing.TB
	cmd     *exec.Cmd
	console string
	socket  string
	qmp     string
	ended   chan struct{}
	http    *http.Client
	session *link.Session
}

// modulesDisk makes the disk that boot gives to every guest from then on, with
// modules.dep for busybox's modprobe.
func (l lab) modulesDisk(t testing.TB) {
	t.Helper()
	ready := filepath.Join(filepath.Dir(l.kernel), "modules.ext4")
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
		// A network that nothing is plugged into.
		"-netdev", "hubport,id=n,hubid=0", "-device", "virtio-net-device,netdev=n,mac=52:54:00:00:00:01"}
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
	g.connect()
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

// connect dials the port until the agent answers. It is called again after a reboot.
func (g *guest) connect() {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	go func() {
		select {
		case <-g.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	if g.session != nil {
		_ = g.session.Close()
	}
	var conn net.Conn
	var err error
	for conn == nil && ctx.Err() == nil {
		if conn, err = net.Dial("unix", g.socket); err != nil {
			time.Sleep(5 * time.Millisecond) // QEMU makes the socket some time after its start
		}
	}
	if err != nil {
		g.t.Fatalf("no channel to the guest: %v", err)
	}
	g.session, err = link.Dial(ctx, conn, uint64(time.Now().UnixNano()))
	if err != nil {
		g.t.Fatalf("the agent does not answer: %v", err)
	}
	s := g.session
	g.http = &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Open(ctx) }}}
}

// call sends in as JSON and reads the answer into out.
func (g *guest) call(method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, "http://guest"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := g.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, data)
	}
	if b, ok := out.(*[]byte); ok {
		*b = data
		return nil
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

func (g *guest) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *guest) health() agentapi.Health {
	g.t.Helper()
	var h agentapi.Health
	g.must(g.call("GET", "/health", nil, &h))
	return h
}

// waitReady waits for the agent's word.
func (g *guest) waitReady(limit time.Duration) agentapi.Health {
	g.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		h := g.health()
		if h.Ready {
			return h
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("not ready after %v: %+v", limit, h)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (g *guest) personalise(p agentapi.Personalise) agentapi.Health {
	g.t.Helper()
	var h agentapi.Health
	g.must(g.call("POST", "/personalise", p, &h))
	return h
}

// exec runs a command in the guest to its end.
func (g *guest) exec(spec api.ExecSpec) (stdout, stderr string, exit api.Control) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := g.session.Open(ctx)
	g.must(err)
	defer conn.Close()
	g.must(conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = fmt.Fprintf(conn, "POST /exec HTTP/1.1\r\nHost: guest\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", api.UpgradeFrames)
	g.must(err)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	g.must(err)
	if res.StatusCode != http.StatusSwitchingProtocols {
		g.t.Fatalf("exec: %s", res.Status)
	}
	g.must(frame.NewWriter(conn).Control(api.Control{Type: api.ControlStart, Exec: &spec}))
	frames := frame.NewReader(in)
	for {
		f, err := frames.Read()
		g.must(err)
		switch f.Channel {
		case frame.Stdout:
			stdout += string(f.Payload)
		case frame.Stderr:
			stderr += string(f.Payload)
		case frame.Control:
			exit, err = f.Control()
			g.must(err)
			return stdout, stderr, exit
		}
	}
}

// sh runs a shell script in the guest and returns what it printed.
func (g *guest) sh(script string) string {
	g.t.Helper()
	out, errs, exit := g.exec(api.ExecSpec{Argv: []string{"/bin/sh", "-c", script}})
	if exit.Type != api.ControlExit {
		g.t.Errorf("%s: %+v", script, exit.Error)
	}
	return strings.TrimSpace(out + errs)
}

// end waits for QEMU to be gone.
func (g *guest) waitEnd(limit time.Duration) {
	g.t.Helper()
	select {
	case <-g.ended:
	case <-time.After(limit):
		g.t.Fatalf("the guest has not ended after %v", limit)
	}
}

// healthAfter waits for an agent of which ok is true, connecting anew.
func (g *guest) healthAfter(ok func(agentapi.Health) bool) agentapi.Health {
	g.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var h agentapi.Health
		if err := g.call("GET", "/health", nil, &h); err != nil {
			g.connect()
			continue
		}
		if ok(h) {
			return h
		}
	}
	g.t.Fatal("no such agent came")
	return agentapi.Health{}
}

// agentPID is the process that serves, not the one that looks after it.
func (g *guest) agentPID() string {
	g.t.Helper()
	return g.sh("for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' < $p/cmdline)\" in '@banger-agent '*) echo ${p#/proc/};; esac; done")
}

// qmpCommand sends one command to QEMU.
func (g *guest) qmpCommand(command string) {
	g.t.Helper()
	conn, err := net.Dial("unix", g.qmp)
	g.must(err)
	defer conn.Close()
	in := json.NewDecoder(conn)
	for _, c := range []string{"", `{"execute":"qmp_capabilities"}`, command} {
		_, err := conn.Write([]byte(c))
		g.must(err)
		var answer map[string]any
		g.must(in.Decode(&answer))
		if answer["error"] != nil {
			g.t.Fatalf("%s: %v", c, answer)
		}
	}
}

// logIdle logs what a guest costs that does nothing, and fails when that is plainly too much.
func (g *guest) logIdle(span time.Duration) {
	g.t.Helper()
	time.Sleep(2 * time.Second) // the kernel's own after-work
	ticks := func() int {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", g.cmd.Process.Pid))
		g.must(err)
		f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		return user + system
	}
	agent := func() string {
		return g.sh("cut -d' ' -f14,15 /proc/" + g.agentPID() + "/stat")
	}
	in := agent()
	had := ticks()
	time.Sleep(span)
	percent := float64(ticks()-had) / span.Seconds() // a tick is a hundredth of a second
	g.t.Logf("idle: %.2f %% of a core; the agent's ticks before and after: %s, %s", percent, in, agent())
	if percent > 5 {
		g.t.Errorf("an idle guest takes %.2f %% of a core", percent)
	}
}

// await runs a script until it prints want: what it looks at happens behind our back.
func (g *guest) await(script, want string) {
	g.t.Helper()
	got := ""
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if got = g.sh(script); got == want {
			return
		}
	}
	g.t.Errorf("%s: got %q, want %q", script, got, want)
}
