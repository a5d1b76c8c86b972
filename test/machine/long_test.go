package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/api"
	"banger/internal/loud"
)

// TestLongConsoleIsBounded: however much a guest prints, its console takes a bounded place on
// the disk, and offsets stay true.
func TestLongConsoleIsBounded(t *testing.T) {
	b := newBox(t)
	b.must("run", "-d", "--name", "x", "--net", "none")
	vm := b.show("x")
	// 24 MiB; each line says where it begins in what was printed.
	b.must("exec", "--timeout", "30m", "x", "--", "sh", "-c",
		`awk 'BEGIN { for (i = 0; i < 196608; i++) printf "%0127d\n", i }' >/dev/console`)
	file := vm.Runtime.LogPath
	eventually(t, "the front of the console is given back", func() bool {
		fi, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return fi.Size() > 24<<20 && fi.Sys().(*syscall.Stat_t).Blocks*512 < 12<<20
	})
	text := ""
	header := b.call(200, "GET", "/v1/vms/x/logs?source=console&offset=0", nil, &text)
	if header.Get(api.LogOffsetHeader) == "0" {
		t.Error("the beginning is said to be there still")
	}
	if !strings.Contains(text, fmt.Sprintf("%0127d", 196607)) {
		t.Error("the end is not there")
	}
}

// TestLongFullDisk: a host without space pauses the guest with that reason, harms nobody, and
// the guest goes on when there is space again.
func TestLongFullDisk(t *testing.T) {
	needRoot(t)
	b := emptyBox(t)
	if err := syscall.Mount("tmpfs", b.state(), "tmpfs", 0, "size=900m,mode=0711"); err != nil {
		loud.Skip(t, "cannot mount a tmpfs: %v", err)
	}
	defer func() { // before the box is taken apart
		if t.Failed() {
			b.tellStory()
		}
		b.must("rm", "-f", "x")
		b.must("daemon", "stop")
		if err := syscall.Unmount(b.state(), 0); err != nil {
			t.Errorf("cannot unmount: %v", err)
		}
	}()
	link(t, preparedState(t), b.state())
	b.must("run", "-d", "--name", "x", "--net", "none", "--disk-size", "4G")
	var s syscall.Statfs_t
	if err := syscall.Statfs(b.state(), &s); err != nil {
		t.Fatal(err)
	}
	// All but 16 MiB is taken by somebody else.
	ballast := filepath.Join(b.state(), "ballast")
	if out, err := exec.Command("fallocate", "-l", fmt.Sprint(int64(s.Bavail)*s.Bsize-16<<20), ballast).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	cmd := b.command(t.Context(), filepath.Join(b.bin, "banger"), "exec", "x", "--", "sh", "-c", "head -c 67108864 /dev/urandom >/root/big && sync && echo written")
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the VM says that the host has no space", func() bool {
		vm := b.show("x")
		return vm.LastError != nil && vm.LastError.Code == api.CodeExhausted
	})
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "written") {
		t.Errorf("after there was space again: %v, %q", err, out.String())
	}
	same(t, "exec", b.guest("x", "echo alive"), "alive")
}

// TestLongPodman: the modules of the VM's kernel are in the guest, so a container with a bridge
// network of its own runs in it.
func TestLongPodman(t *testing.T) {
	b := newBox(t, setting("memory", "1G"))
	b.build("image", "build", "debian", "--name", "podman", "--packages",
		"systemd,systemd-sysv,udev,dbus,kmod,iproute2,podman,crun,containernetworking-plugins,iptables,busybox-static,ca-certificates")
	b.must("run", "-d", "--name", "x", "--image", "podman")
	out := b.must("exec", "--timeout", "10m", "x", "--", "sh", "-ec", `
		mkdir -p /tmp/r/bin && cp /bin/busybox /tmp/r/bin/ && ln -s busybox /tmp/r/bin/sh && ln -s busybox /tmp/r/bin/ip
		tar -C /tmp/r -c . | podman import - local/box >/dev/null
		podman run --rm --network bridge local/box /bin/ip -4 addr show eth0`)
	if !strings.Contains(out, "inet 10.88.") {
		t.Errorf("the container has no address on a bridge: %s", out)
	}
}

// TestLongMany: many starts and deletes at once end with nothing left.
func TestLongMany(t *testing.T) {
	b := newBox(t, setting("memory", "96M"))
	const n = 6
	for round := range 3 {
		done := make(chan result, n)
		for i := range n {
			go func() { done <- b.banger("run", "--rm", "--name", fmt.Sprintf("m%d", i), "--", "hostname") }()
		}
		for range n {
			if r := <-done; r.code != 0 || !strings.HasPrefix(r.stdout, "m") {
				t.Errorf("round %d: %v", round, r)
			}
		}
		b.checkNothingOfVMs()
	}
}
