package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
)

// TestDaemonDiesInFork: wherever the daemon dies in a fork, the source goes on with its life on its own disks, and the fork is whole
// or gone.
func TestDaemonDiesInFork(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "first") // what stays with the first VM and the first fork
	b.must("fork", "--name", "second", "first")
	b.must("rm", "-f", "first", "second")
	none := b.holdings()
	b.live("src")
	source := b.show("src")
	points := b.points("vm.fork", "fork", "src", "--name", "f")
	b.checkLives("f", 0)
	b.must("rm", "-f", "f")
	for _, point := range points {
		b.sub(point, func(t *testing.T, b *box) {
			acked := b.number("src", "cat /run/acked")
			b.dies(point, "fork", "src", "--name", "f")
			b.checkLives("src", acked)
			vm := b.settled("src")
			same(t, "boots of the source", vm.StartedAt.Equal(*source.StartedAt), true)
			b.checkDisksOf(vm)
			if strings.Contains(b.must("ps", "-a"), " f ") {
				same(t, "state of the fork", b.settled("f").State, api.StateRunning)
				b.checkDisksOf(b.show("f"))
				b.checkLives("f", acked)
				b.checkNothingShared("src", "f")
				b.must("rm", "-f", "f")
			}
			b.must("fork", "src", "--name", "f")
			b.checkLives("f", acked)
			b.must("rm", "-f", "f")
		})
	}
	acked := b.number("src", "cat /run/acked")
	b.must("kill", "src")
	b.must("start", "src")
	b.checkDisk("src", acked)
	b.must("rm", "-f", "src")
	b.holds(none)
}

// checkDisksOf wants a VM to have the two disks of its record, writable by its VMM alone, and nothing half-made beside them.
func (b *box) checkDisksOf(vm api.VM) {
	b.t.Helper()
	var disks []string
	for _, kind := range []string{"root", "work"} {
		found, err := filepath.Glob(filepath.Join(b.vmDir(vm), "v", kind+"*"))
		if err != nil {
			b.t.Fatal(err)
		}
		disks = append(disks, found...)
	}
	same(b.t, vm.Name+": disks", strings.Join(disks, " "), vm.Runtime.SystemOverlay+" "+vm.Runtime.WorkDiskPath)
	for _, path := range disks {
		fi, err := os.Stat(path)
		if err != nil {
			b.t.Fatal(err)
		}
		same(b.t, "mode of "+path, fi.Mode(), 0o600)
	}
	left, err := os.ReadDir(filepath.Join(b.state(), "tmp"))
	if err != nil || len(left) > 0 {
		b.t.Errorf("left in tmp: %v, %v", left, err)
	}
}

// TestLongPowerCutInFork: wherever the power fails in a fork, the source's disks hold all that was synced, and the fork is gone or
// whole.
func TestLongPowerCutInFork(t *testing.T) {
	t.Parallel()
	b := newBox(t, smallDisk(1024))
	b.must("template", "build")
	b.live("src")
	points := b.points("vm.fork", "fork", "src", "--name", "f")
	b.must("rm", "-f", "src", "f")
	for _, point := range points {
		switch strings.TrimPrefix(point, "vm.fork/") {
		case "begun", "spawn", "stand", "switch", "frozen", "run", "end":
		default:
			continue // nothing has changed on the disk since the point before
		}
		b.sub(point, func(t *testing.T, b *box) {
			b.live("src")
			b.guest("src", "echo root >/etc/moved.new; sync; mv /etc/moved.new /etc/moved; sync")
			acked := b.number("src", "cat /run/acked")
			b.cutAt(point, "fork", "src", "--name", "f")
			same(t, "state of the source", b.show("src").State, api.StateStopped)
			b.must("start", "src")
			b.checkDisk("src", acked)
			same(t, "a file on the root", b.guest("src", "cat /etc/moved"), "root")
			b.checkDisksOf(b.show("src"))
			if strings.Contains(b.must("ps", "-a"), " f ") {
				b.must("start", "f")
				b.checkDisk("f", acked)
				b.checkNothingShared("src", "f")
			}
			b.must("fork", "src", "--name", "g")
			b.checkDisk("g", acked)
			b.must(append([]string{"rm", "-f"}, strings.Fields(b.must("ps", "-aq"))...)...)
			if left := b.layers(); len(left) > 0 {
				t.Errorf("layers left: %v", left)
			}
		})
	}
}
