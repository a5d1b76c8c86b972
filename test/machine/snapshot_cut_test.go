package machine

import (
	"testing"

	"banger/api"
)

// TestLongPowerCutSnapshot: wherever the power fails in the making of a snapshot, the VM starts with all that was synced, and a snapshot
// that is there is whole. Wherever it fails in a restore, there is the VM as it was, as after any power cut, or the restored one.
func TestLongPowerCutSnapshot(t *testing.T) {
	t.Parallel()
	b := newBox(t, smallDisk(1536))
	b.must("template", "build")
	b.must("run", "-d", "--name", "x", "--", "sh", "-c", counter)
	b.guest("x", "echo kept >/run/t")
	synced := func(b *box, words string) {
		b.t.Helper()
		b.guest("x", "echo "+words+" >/root/w; sync -f /root/w; mv /root/w /root/moved; sync")
	}
	clean := func(b *box, words string) {
		b.t.Helper()
		same(b.t, "file", b.guest("x", "cat /root/moved; dmesg | grep -i 'ext4.*error' || true"), words)
	}
	synced(b, "then")
	b.must("vm", "snapshot", "create", "x", "keep")
	for _, point := range []string{"moved", "frozen", "end"} {
		b.sub(point, func(t *testing.T, b *box) {
			synced(b, point)
			b.cutAt("vm.snapshot/"+point, "vm", "snapshot", "create", "x", "tried")
			made := len(b.show("x").Snapshots) > 1
			if made != (point == "end") {
				t.Errorf("there is a snapshot: %v", made)
			}
			same(t, "state", b.show("x").State, api.StateStopped)
			b.must("start", "x")
			clean(b, point)
			if made {
				b.must("vm", "snapshot", "restore", "-f", "x", "tried")
				clean(b, point)
				b.must("vm", "snapshot", "delete", "x", "tried")
			}
			b.must("vm", "snapshot", "restore", "-f", "x", "keep")
			clean(b, "then")
			same(t, "memory", b.guest("x", "cat /run/t"), "kept")
			same(t, "snapshots", len(b.files("snapshots")), 1)
		})
	}
	for _, point := range []string{"killed", "recorded", "used"} {
		b.sub(point+" of a restore", func(t *testing.T, b *box) {
			synced(b, "now")
			b.cutAt("vm.restore/"+point, "vm", "snapshot", "restore", "-f", "x", "keep")
			vm := b.show("x")
			b.must("start", "x")
			switch {
			case point == "killed":
				same(t, "state", vm.State, api.StateStopped)
				clean(b, "now")
			case vm.State == api.StateSuspended:
				clean(b, "then")
				same(t, "memory", b.guest("x", "cat /run/t"), "kept")
			case point == "recorded":
				t.Errorf("it is %s", vm.State)
			default: // it ran
				clean(b, "then")
			}
			b.must("vm", "snapshot", "restore", "-f", "x", "keep")
			clean(b, "then")
		})
	}
	b.must("rm", "-f", "x")
	b.checkNothingOfVMs()
	b.checkNoSnapshots()
}
