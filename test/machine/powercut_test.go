package machine

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/api"
)

// smallDisk gives the box a file system of its own for its state, on a file of that many MiB: it can be filled, and be cut off
// from power.
func smallDisk(mib int) option {
	return func(b *box) {
		t := b.t
		t.Helper()
		needProgram(t, "mkfs.ext4", "losetup")
		image := filepath.Join(b.dir, "disk")
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, int64(mib)<<20); err != nil {
			t.Fatal(err)
		}
		b.sh("mkfs.ext4", "-q", "-m", "0", image)
		b.mountDisk()
		if err := os.Chmod(b.state(), 0o711); err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"images", "kernels"} {
			if err := os.Mkdir(filepath.Join(b.state(), part), 0o711); err != nil {
				t.Fatal(err)
			}
		}
		b.bindPrepared()
		b.sh("cp", "-a", filepath.Join(preparedState(t), "banger.db"), b.state())
		b.beforeGone = b.unmountDisk
	}
}

func (b *box) sh(args ...string) {
	b.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		b.t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

func (b *box) mountDisk() {
	b.t.Helper()
	b.sh("mount", "-o", "loop", filepath.Join(b.dir, "disk"), b.state())
}

// bindPrepared shows the prepared images in the state directory, without a copy.
func (b *box) bindPrepared() {
	b.t.Helper()
	for _, part := range []string{"images", "kernels"} {
		b.sh("mount", "--bind", "-o", "ro", filepath.Join(preparedState(b.t), part), filepath.Join(b.state(), part))
	}
}

func (b *box) unmountDisk() {
	b.t.Helper()
	for _, part := range []string{"images", "kernels", ""} { // what was killed may not be quite gone
		eventually(b.t, "the disk is unmounted", func() bool { return exec.Command("umount", filepath.Join(b.state(), part)).Run() == nil })
	}
}

// endAll ends every process of the box at once.
func (b *box) endAll() {
	b.t.Helper()
	for _, pid := range b.net.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // in our own namespace, so ours
	}
}

// reboot makes the host look as after one: no process, device or rule of ours, an empty runtime directory, another boot id.
// Whatever had not reached the disk is lost, if there is a disk.
func (b *box) reboot() {
	b.t.Helper()
	b.endAll()
	disk := filepath.Join(b.dir, "disk")
	_, err := os.Stat(disk)
	if err == nil {
		b.sh("cp", "--sparse=always", disk, disk+".cut") // as it is now, with what is only in memory missing
	}
	b.checkNoProcesses()
	if err == nil {
		b.unmountDisk()
		b.sh("mv", disk+".cut", disk)
		b.mountDisk()
		b.bindPrepared()
	}
	for _, name := range b.net.links() {
		if name != "lo" && name != "up0" {
			ip(b.t, "-n", b.net.name, "link", "del", name)
		}
	}
	b.net.output("nft", "flush", "ruleset")
	if err := os.RemoveAll(b.runtime()); err != nil {
		b.t.Fatal(err)
	}
	b.boots++
	b.bootID = filepath.Join(b.dir, "boot_id")
	overwrite(b.t, b.bootID, fmt.Appendf(nil, "00000000-0000-4000-8000-%012d\n", b.boots))
}

// cutAt lets banger do what its arguments say and has the power fail when the daemon reaches the point.
func (b *box) cutAt(point string, args ...string) {
	b.t.Helper()
	b.must("daemon", "stop")
	// No client may start another daemon before the lights are out.
	lone := filepath.Join(b.dir, "lone", "banger")
	if _, err := os.Stat(lone); err != nil {
		b.sh("mkdir", "-p", filepath.Dir(lone))
		b.sh("cp", filepath.Join(b.bin, "banger"), lone)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), commandTime)
	defer cancel()
	daemon := b.command(ctx, filepath.Join(b.bin, "bangerd"))
	daemon.Env = append(daemon.Env, dieAt+"="+point)
	if err := daemon.Start(); err != nil {
		b.t.Fatal(err)
	}
	eventually(b.t, "bangerd serves", func() bool {
		conn, err := net.Dial("unix", b.socket())
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	client := b.command(ctx, lone, args...)
	var said strings.Builder
	client.Stderr = &said
	client.Env = append(client.Env, "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	if err := client.Start(); err != nil {
		b.t.Fatal(err)
	}
	_ = daemon.Wait()
	died := daemon.ProcessState.Sys().(syscall.WaitStatus)
	b.reboot()
	_ = client.Wait()
	if !died.Signaled() || ctx.Err() != nil {
		b.t.Fatalf("the daemon did not die at %s: %v, %s", point, daemon.ProcessState, said.String())
	}
}

// TestPowerCut: wherever the power fails in a suspend, the VM is suspended with its memory whole, or stopped with everything that
// was synced.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	c := newCuts(t)
	whole := false // from the rename on
	for _, point := range c.suspend {
		atRename := strings.HasSuffix(point, "/renamed")
		whole = whole || atRename
		c.cut(point, false, !whole || atRename, whole)
	}
}

// TestLongPowerCutInStart: wherever it fails in the start of a suspended VM, a memory that has been used is not used again.
func TestLongPowerCutInStart(t *testing.T) {
	t.Parallel()
	c := newCuts(t)
	used := false
	for _, point := range c.start {
		atUse := strings.HasSuffix(point, "/used")
		used = used || atUse
		if used || strings.HasSuffix(point, "/devices") {
			c.cut(point, true, used, !used || atUse)
		}
	}
}

// cuts is a box in which the power fails again and again.
type cuts struct {
	*box
	// suspend and start are the points of both, suspended what a suspended VM holds.
	suspend, start, suspended []string
}

func newCuts(t *testing.T) *cuts {
	t.Helper()
	c := &cuts{box: newBox(t, smallDisk(1024))}
	c.must("template", "build")
	c.must("run", "-d", "--name", "x", "--", "sh", "-c", counter)
	c.suspend = c.points("vm.suspend", "suspend", "x")
	c.suspended = c.holdingsWith(c.show("x"))
	c.start = c.points("vm.start", "start", "x")
	return c
}

// cut lets the power fail at a point of a suspend, or of the start after one.
func (c *cuts) cut(point string, suspendFirst, mayBeLost, mayBeKept bool) {
	c.t.Helper()
	c.sub(point, func(t *testing.T, b *box) {
		if b.banger("show", "x").code != 0 {
			b.must("run", "-d", "--name", "x", "--", "sh", "-c", counter)
		}
		var n counts
		n.goOn(b, "x")
		b.guest("x", "echo synced >/root/file; sync -f /root/file; mv /root/file /root/moved; sync")
		if suspendFirst {
			b.must("suspend", "x")
			b.cutAt(point, "start", "x")
		} else {
			b.cutAt(point, "suspend", "x")
		}
		vm := b.show("x")
		switch {
		case vm.State == api.StateSuspended && mayBeKept:
			same(t, "holdings", strings.Join(b.holdingsWith(vm), "\n"), strings.Join(c.suspended, "\n"))
			b.must("start", "x")
			n.goOn(b, "x")
		case vm.State == api.StateStopped && mayBeLost:
			b.must("start", "x")
		default:
			t.Errorf("it is %s: %s", vm.State, vm.StopReason)
			b.must("start", "x")
		}
		if vm.State != api.StateSuspended {
			defer b.must("rm", "-f", "x")
		}
		same(t, "file", b.guest("x", "cat /root/moved; dmesg | grep -i 'ext4.*error' || true"), "synced")
	})
}

// TestReboot: a suspended VM goes on from its memory after the host was booted again; one that ran is stopped.
func TestReboot(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x", "--", "sh", "-c", counter)
	b.must("run", "-d", "--name", "y")
	var c counts
	c.goOn(b, "x")
	b.guest("x", "echo kept >/run/tmpfs")
	b.guest("y", "echo synced >/root/file; sync")
	for range 2 {
		b.must("suspend", "x")
		b.reboot()
		same(t, "state of y", b.show("y").State, api.StateStopped)
		same(t, "state of x", b.show("x").State, api.StateSuspended)
		b.must("start", "x")
		c.goOn(b, "x")
		same(t, "tmpfs", b.guest("x", "cat /run/tmpfs"), "kept")
	}
	b.must("start", "y")
	same(t, "file", b.guest("y", "cat /root/file"), "synced")
	b.must("rm", "-f", "x", "y")
	b.checkNothingOfVMs()
}

// TestFreezeOnFullDisk: a guest that cannot be frozen for want of space runs on, and no file of that is left.
func TestFreezeOnFullDisk(t *testing.T) {
	t.Parallel()
	b := newBox(t, smallDisk(400))
	b.must("run", "-d", "--name", "x", "--", "sh", "-c", counter)
	b.guest("x", "echo kept >/root/file; sync")
	var c counts
	c.goOn(b, "x")
	running := b.holdings()
	var s syscall.Statfs_t
	if err := syscall.Statfs(b.state(), &s); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(b.state(), "ballast")
	b.sh("fallocate", "-l", fmt.Sprint(int64(s.Bavail)*s.Bsize-4<<20), ballast)
	r := b.fails(1, []string{"no space"}, "suspend", "x")
	t.Log(r.stderr)
	same(t, "state", b.show("x").State, api.StateRunning)
	c.goOn(b, "x")
	b.sh("rm", ballast)
	b.holds(running)
	same(t, "file", b.guest("x", "echo more >>/root/file; cat /root/file"), "kept\nmore")
	b.must("suspend", "x")
	b.must("start", "x")
	c.goOn(b, "x")
}
