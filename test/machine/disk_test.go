package machine

import (
	"os"
	"syscall"
	"testing"

	"banger/api"
)

// TestDiscard: what the guest deletes, the host gets back.
func TestDiscard(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x", "--net", "none", "--disk-size", "2G")
	vm := b.show("x")
	empty := used(t, vm)
	b.guest("x", "head -c 4194304 /dev/urandom >/tmp/r; i=0; while [ $i -lt 256 ]; do cat /tmp/r; i=$((i+1)); done >/root/big; sync")
	full := used(t, vm)
	if full-empty < 1000<<20 {
		t.Fatalf("1 GiB written, and the disk took %d more", full-empty)
	}
	b.guest("x", "rm /root/big; sync")
	eventually(t, "the host's usage falls", func() bool { return used(t, vm)-empty < 150<<20 })
}

// used is what a VM's work disk takes on the host.
func used(t *testing.T, vm api.VM) int64 {
	t.Helper()
	fi, err := os.Stat(vm.Runtime.WorkDiskPath)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Blocks * 512
}

// TestCloneDriver: the other way to make disks, with a real VM on top.
func TestCloneDriver(t *testing.T) {
	t.Parallel()
	b := newBox(t, setting("disk_driver", "clone"))
	b.must("run", "-d", "--name", "x", "--net", "none")
	b.guest("x", "echo kept >/srv/f; echo kept >/root/f")
	b.must("restart", "x")
	same(t, "files", b.guest("x", "cat /srv/f /root/f"), "kept\nkept")
	b.must("stop", "x")
	b.must("reset", "x")
	b.must("start", "x")
	same(t, "files after reset", b.guest("x", "cat /root/f; ls /srv"), "kept")
}
