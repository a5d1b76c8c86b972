package qemu

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/hypervisortest"
	"banger/internal/hypervisor/vmm"
	"banger/internal/loud"
)

// script runs a shell script in the guest and wants it to succeed.
func script(t testing.TB, i hypervisor.Instance, id, text string) {
	t.Helper()
	session(t, i, id, text)
	var s agentapi.Session
	if err := call(bounded(t, time.Minute), i, http.MethodGet, "/sessions/"+id+"?wait=true", "", &s); err != nil || s.ExitCode != 0 {
		t.Errorf("in the guest, %q: %+v, %v", text, s, err)
	}
}

// A thawed guest has the template's address and talks all the time: nothing of it may get out before SetLink.
func TestThawedNetwork(t *testing.T) {
	t.Parallel()
	h, m := newHypervisor(t), theLab.Machine(t)
	if os.Geteuid() != 0 {
		loud.Skip(t, "a tap needs root")
	}
	tap := func(n int, owner int) (*os.File, string) {
		// In no bridge: nothing that the guest sends gets anywhere.
		name := fmt.Sprintf("bgt%d%d", n, os.Getpid())
		f, err := h.host.OpenTap(bounded(t, time.Minute), host.Tap{Name: name, MTU: 1500, Owner: owner})
		if err != nil {
			loud.Skip(t, "%v", err)
		}
		t.Cleanup(func() { f.Close(); _ = h.host.DeleteLink(bounded(t, time.Minute), name) })
		return f, name
	}
	m.NIC = &hypervisor.NIC{Kind: hypervisor.NICTap, MAC: "52:54:00:12:34:57"}
	var name string
	m.NIC.Tap, name = tap(0, m.UID)
	source := startMachine(t, h, m)
	script(t, source, "up", "/bin/busybox ifconfig eth0 10.77.0.2 netmask 255.255.255.0 up; read c </sys/class/net/eth0/carrier; [ $c = 1 ]")
	session(t, source, "talk", "while :; do /bin/busybox ping -c 1 -W 1 10.77.0.3; done")
	awaitFrames(t, name)

	dir := t.TempDir()
	above := map[string]string{}
	for _, d := range m.Drives {
		above[d.Serial] = layer(t, d, d.Path+".after", m.UID).Path
	}
	if _, err := source.Freeze(bounded(t, time.Minute), hypervisor.Freeze{Dir: dir, Whole: true, Overlays: above, Resume: true}); err != nil {
		t.Fatal(err)
	}
	frozen := hypervisor.Frozen{Device: filepath.Join(dir, hypervisor.FrozenDevice), Memory: filepath.Join(dir, hypervisor.FrozenMemory)}

	c := cloneOf(t, m)
	c.NIC = &hypervisor.NIC{Kind: hypervisor.NICTap, MAC: "52:54:00:12:34:58"}
	c.NIC.Tap, name = tap(1, c.UID)
	clone := thawMachine(t, h, c, frozen)
	script(t, clone, "down", "for i in 1 2 3; do read c </sys/class/net/eth0/carrier; [ $c = 0 ] || exit 1; /bin/busybox ping -c 1 -W 1 10.77.0.3; done; exit 0")
	if n := frames(t, name); n != 0 {
		t.Errorf("%d frames got out of a guest whose link is down", n)
	}
	if err := clone.SetLink(bounded(t, time.Minute), true); err != nil {
		t.Fatal(err)
	}
	script(t, clone, "again", "n=0; while read c </sys/class/net/eth0/carrier; [ $c = 0 ] && [ $n -lt 100 ]; do n=$((n+1)); sleep 0.1; done; [ $c = 1 ]")
	awaitFrames(t, name)
	if err := clone.SetLink(bounded(t, time.Minute), false); err != nil {
		t.Fatal(err)
	}
	n := frames(t, name)
	script(t, clone, "quiet", "/bin/busybox ping -c 1 -W 1 10.77.0.3; exit 0")
	if after := frames(t, name); after != n {
		t.Errorf("%d frames got out after the link was taken down", after-n)
	}

	// A state that was made with one kind of device does not load with another, and says so.
	c.NIC = &hypervisor.NIC{Kind: hypervisor.NICSocket, MAC: "52:54:00:12:34:58", Socket: filepath.Join(c.Dir, "n")}
	if _, err := h.Thaw(bounded(t, time.Minute), cloneOf(t, c), frozen, func(hypervisor.Handles) error { return nil }); api.CodeOf(err) != api.CodeConflict || !strings.Contains(err.Error(), "network") {
		t.Errorf("a thaw with another network: %v", err)
	}
}

// frames counts what a guest has sent to its tap.
func frames(t testing.TB, tap string) int {
	t.Helper()
	b, err := os.ReadFile("/sys/class/net/" + tap + "/statistics/rx_packets")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func awaitFrames(t testing.TB, tap string) {
	t.Helper()
	for ctx := bounded(t, time.Minute); frames(t, tap) == 0; time.Sleep(20 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatal("the guest sends nothing")
		}
	}
}

// A clone's work disk is larger than the template's: the guest learns so when it is told.
func TestGrowAfterThaw(t *testing.T) {
	t.Parallel()
	h, m := newHypervisor(t), theLab.Machine(t)
	_, frozen := template(t, h, m)
	c := cloneOf(t, m)
	const size = 3 << 30
	run(t, "qemu-img", "resize", "-q", c.Drives[1].Path, strconv.Itoa(size))
	i := thawMachine(t, h, c, frozen)
	script(t, i, "before", fmt.Sprintf("read s </sys/block/vdb/size; [ $s = %d ]", 64<<20/512))
	if err := i.GrowDrive(bounded(t, time.Minute), "banger-work", size); err != nil {
		t.Fatal(err)
	}
	script(t, i, "after", fmt.Sprintf("n=0; while read s </sys/block/vdb/size; [ $s != %d ] && [ $n -lt 100 ]; do n=$((n+1)); sleep 0.1; done; echo x | dd of=/dev/vdb bs=1M seek=2000 conv=fsync && [ $s = %[1]d ]", size/512))

	// The same again, on a layer that was put on top later.
	above := layer(t, c.Drives[1], c.Drives[1].Path+".1", c.UID)
	if _, err := i.Freeze(bounded(t, time.Minute), hypervisor.Freeze{Dir: t.TempDir(), Overlays: map[string]string{"banger-work": above.Path}, Resume: true, Transient: true}); err != nil {
		t.Fatal(err)
	}
	if err := i.GrowDrive(bounded(t, time.Minute), "banger-work", size+1<<30); err != nil {
		t.Fatal(err)
	}
	script(t, i, "later", fmt.Sprintf("n=0; while read s </sys/block/vdb/size; [ $s != %d ] && [ $n -lt 100 ]; do n=$((n+1)); sleep 0.1; done; [ $s = %[1]d ]", (size+1<<30)/512))
	stats, err := i.DriveStats(bounded(t, time.Minute))
	if err != nil || stats["banger-work"].WriteBytes == 0 {
		t.Errorf("DriveStats = %v, %v", stats, err)
	}
}

// A full disk must cost neither the guest nor leave a file.
func TestFreezeOnFullDisk(t *testing.T) {
	t.Parallel()
	h, m := newHypervisor(t), theLab.Machine(t)
	if os.Geteuid() != 0 {
		loud.Skip(t, "a small file system needs root")
	}
	i := startMachine(t, h, m)
	before := awaitAgent(t, i)
	small := filepath.Join(filepath.Dir(m.Dir), "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", small, "tmpfs", 0, "size=20m,mode=755"); err != nil {
		loud.Skip(t, "cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	above := map[string]string{}
	for _, d := range m.Drives {
		above[d.Serial] = layer(t, d, d.Path+".after", m.UID).Path
	}
	files, err := i.DriveFiles(bounded(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []hypervisor.Freeze{
		{Dir: small, Overlays: above, Resume: true},
		{Dir: small, Overlays: above, Resume: true, Whole: true},
		{Dir: small},
		{Dir: small, Whole: true},
	} {
		if _, err := i.Freeze(bounded(t, time.Minute), f); api.CodeOf(err) != api.CodeExhausted {
			t.Errorf("Freeze(%+v) = %v", f, err)
		}
		if left, err := os.ReadDir(small); err != nil || len(left) != 0 {
			t.Errorf("files are left: %v, %v", left, err)
		}
		if got := awaitAgent(t, i); got.BootID != before.BootID || i.Standing() {
			t.Errorf("the guest after a freeze that failed: %+v", got)
		}
		if now, err := i.DriveFiles(bounded(t, time.Minute)); err != nil || fmt.Sprint(now) != fmt.Sprint(files) {
			t.Errorf("the guest's drives are now %v, %v", now, err)
		}
	}
	// With room it works, on the very layers that were refused before.
	if _, err := i.Freeze(bounded(t, time.Minute), hypervisor.Freeze{Dir: t.TempDir(), Overlays: above, Resume: true}); err != nil {
		t.Error(err)
	}
}

// A thaw that a daemon's death has cut off is nothing to be taken up.
func TestAdoptHalfThawed(t *testing.T) {
	t.Parallel()
	h, m := newHypervisor(t), theLab.Machine(t)
	_, frozen := template(t, h, m)
	c := cloneOf(t, m)
	f, err := h.oracle.ask(bounded(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	half, err := h.thawing(bounded(t, time.Minute), &c, frozen, f)
	if err != nil {
		t.Fatal(err)
	}
	defer half.close()
	s, err := h.spawn(&c, f, half.launch)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.undo(s.p) }()
	if _, err := s.control.Read(make([]byte, 1)); err != nil { // until QEMU greets, it does not listen itself
		t.Fatal(err)
	}
	s.close()
	if i, err := h.Adopt(bounded(t, time.Minute), c, s.p, nil); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("Adopt = %v, %v", i, err)
	}
	if !h.host.Alive(s.p) {
		t.Error("a refused Adopt has ended the VMM")
	}
}

// What keeps the guest from running ends the VMM.
func TestThawRefusedAtTheEnd(t *testing.T) {
	t.Parallel()
	h, m := newHypervisor(t), theLab.Machine(t)
	_, frozen := template(t, h, m)
	c := cloneOf(t, m)
	frozen.BeforeRun = func() error { return context.DeadlineExceeded }
	var p host.Process
	if _, err := h.Thaw(bounded(t, time.Minute), c, frozen, func(r hypervisor.Handles) error { p = r.Process; return nil }); err == nil || h.host.Alive(p) {
		t.Errorf("Thaw = %v; the process lives: %v", err, h.host.Alive(p))
	}
	// A stream that checks, but that QEMU cannot read.
	var head stateHead
	stream, err := vmm.ReadState(frozen.Device, &head)
	if err != nil {
		t.Fatal(err)
	}
	clear(stream[len(stream)/2:])
	b, err := vmm.EncodeState(head, stream)
	if err != nil {
		t.Fatal(err)
	}
	frozen.BeforeRun, frozen.Device = nil, filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(frozen.Device, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Thaw(bounded(t, time.Minute), c, frozen, func(r hypervisor.Handles) error { p = r.Process; return nil }); api.CodeOf(err) != api.CodeConflict || h.host.Alive(p) {
		t.Errorf("Thaw = %v; the process lives: %v", err, h.host.Alive(p))
	}
}

// Where Yama restricts users, QEMU is started through a program of ours; that must make no other difference.
func TestThroughLauncher(t *testing.T) {
	t.Parallel()
	h, m := newHypervisor(t), theLab.Machine(t)
	h.launched = true
	if err := os.Chmod(h.paths.State, 0o711); err != nil {
		t.Fatal(err)
	}
	if path, err := h.launcher(0); err != nil || os.Chmod(path, 0o755) != nil {
		t.Fatal(err)
	}
	_, frozen := template(t, h, m)
	i := thawMachine(t, h, cloneOf(t, m), frozen)
	awaitAgent(t, i)
	args, err := h.host.CommandLine(i.Process().PID)
	if err != nil || filepath.Base(args[0]) != "qemu-system-x86_64" {
		t.Errorf("the process is %q, %v", args, err)
	}
}

// TestAsOrdinaryUser freezes and thaws with no rights at all: the VMMs run under the daemon's own uid then.
func TestAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		loud.Skip(t, "only root can become somebody else")
	}
	self := filepath.Join(theLab.Dir(t), "test")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run(t, "cp", exe, self)
	tmp := hypervisortest.ShortDir(t)
	if err := os.Chown(tmp, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err = local.New().Run(bounded(t, 10*time.Minute), host.Command{
		Path: self, Args: []string{"-test.v", "-test.run", "^(TestConformance|TestGrowAfterThaw)$/^Freeze$"}, Dir: tmp,
		Env: append(theLab.Environ(t), "TMPDIR="+tmp, "HOME="+tmp),
		UID: 65534, GID: 65534, Stdout: &out,
	})
	if err != nil || !strings.Contains(out.String(), "--- PASS: TestConformance/Freeze ") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
