package machine

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"banger/api"
)

// TestVMM: under root's daemon each VMM has a uid of its own and no rights but its own files.
func TestVMM(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "one")
	b.must("run", "-d", "--name", "two", "--net", "none")
	one, two := b.show("one"), b.show("two")
	for _, vm := range []api.VM{one, two} {
		pid := b.vmm(vm)
		same(t, "Uid", status(t, pid, "Uid"), strconv.Itoa(vm.Runtime.UID))
		same(t, "CapEff", status(t, pid, "CapEff"), "0000000000000000")
		same(t, "CapPrm", status(t, pid, "CapPrm"), "0000000000000000")
		same(t, "NoNewPrivs", status(t, pid, "NoNewPrivs"), "1")
		same(t, "Seccomp", status(t, pid, "Seccomp"), "2")
	}
	if one.Runtime.UID == two.Runtime.UID || one.Runtime.UID < 1000 {
		t.Fatalf("uids %d and %d", one.Runtime.UID, two.Runtime.UID)
	}
	// Every file of the daemon, as the first VM's uid.
	own := filepath.Join(b.vmDir(one), "v")
	err := filepath.WalkDir(b.state(), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		inside, _ := filepath.Match(filepath.Join(own, "*"), path)
		sealed := isBelow(path, filepath.Join(b.state(), "images")) || isBelow(path, filepath.Join(b.state(), "kernels")) || isBelow(path, filepath.Join(b.state(), "initramfs"))
		if base := filepath.Base(path); isBelow(path, filepath.Join(b.state(), "templates")) && (base == "root" || base == "work") {
			sealed = true // what clones' disks lie on
		}
		uid := strconv.Itoa(one.Runtime.UID)
		read := b.run(nil, "setpriv", "--reuid="+uid, "--regid="+uid, "--clear-groups", "test", "-r", path).code == 0
		write := b.run(nil, "setpriv", "--reuid="+uid, "--regid="+uid, "--clear-groups", "test", "-w", path).code == 0
		if !inside && (write || read && !sealed) {
			t.Errorf("uid %s of VM one: %s: may read %v, may write %v", uid, path, read, write)
		}
		if base := filepath.Base(path); inside && !read && (base == "root" || base == "work") {
			t.Errorf("uid %s of VM one may not read its own %s", uid, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "memory limit or score", fileText(t, "/proc/"+strconv.Itoa(b.vmm(one))+"/oom_score_adj") > "0", true)
}

func isBelow(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

func fileText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
