package hypervisortest

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/hypervisor"
)

const rootDrive = "banger-root"

// testFlatten: a chain is made short while the guest writes; nothing is lost, what lay between is needed no more, and what
// lies below is as it was.
func (z *freezer) testFlatten(t *testing.T, base hypervisor.Machine, image hypervisor.Frozen) {
	m := z.machine(t, base)
	r := z.thaw(t, m, image)
	if r == nil {
		t.FailNow()
	}
	bottom := base.Drives[0].Path
	before, err := os.ReadFile(bottom)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Flatten(bounded(t, time.Minute), "no-such-drive", bottom); err == nil {
		t.Error("a drive that is not there was flattened")
	}
	if err := r.Flatten(bounded(t, time.Minute), rootDrive, bottom); err != nil {
		t.Errorf("nothing to flatten: %v", err)
	}
	if !z.real {
		return
	}
	if err := r.Flatten(bounded(t, time.Minute), rootDrive, m.Dir); api.CodeOf(err) != api.CodeNotFound {
		t.Error("flattened to what is not in the chain")
	}
	// A writer that syncs all it writes, all the time.
	spec := api.ExecSpec{Argv: []string{"/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >>/written; sync; echo $i >/dev/written; done"}, Cwd: "/"}
	if err := call(bounded(t, time.Minute), r, http.MethodPost, "/sessions", agentapi.SessionStart{ID: "write", Exec: spec}, &struct{}{}); err != nil {
		t.Fatal(err)
	}
	between, m := z.deepen(t, r, m, 4)

	// A freeze does not wait for a flattening, and is not hindered by it.
	run(t, r, "/bin/sh", "-c", "dd if=/dev/urandom of=/large bs=1M count=40; sync")
	ended := make(chan error, 1)
	go func() { ended <- r.Flatten(bounded(t, time.Minute), rootDrive, bottom) }()
	more, m := z.deepen(t, r, m, 1)
	if err := <-ended; err != nil && api.CodeOf(err) != api.CodeCancelled {
		t.Errorf("a flattening that a freeze has met: %v", err)
	}
	between = append(between, more...)
	more, m = z.deepen(t, r, m, 3)
	between = append(between, more...)

	// Down to a layer in the middle first, by a name that it got later.
	middle := filepath.Join(z.dir(t), "sealed")
	if err := os.Link(more[1], middle); err != nil {
		t.Fatal(err)
	}
	if err := r.Flatten(bounded(t, time.Minute), rootDrive, middle); err != nil {
		t.Fatalf("Flatten: %v", err)
	}
	if err := r.Flatten(bounded(t, time.Minute), rootDrive, more[2]); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("flattened to what the chain has no more: %v", err)
	}
	if err := r.Flatten(bounded(t, time.Minute), rootDrive, bottom); err != nil {
		t.Fatalf("Flatten: %v", err)
	}
	z.wantDrives(t, r, m.Drives)
	for _, path := range between {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	z.wantCounting(t, r)
	check := "echo 1 >/proc/sys/vm/drop_caches; for i in 0 1 2 3; do cat /layer$i; done; wc -c </large; tail -n 1 /written"
	got := run(t, r, "/bin/sh", "-c", "cat /dev/written; sync; "+check)
	f := strings.Fields(got.Stdout)
	if got.ExitCode != 0 || len(f) != 7 || strings.Join(f[1:6], " ") != "0 1 2 3 41943040" {
		t.Fatalf("the flattened disk: %+v", got)
	}
	// Killed and booted again: by its header alone the disk finds what it lies on.
	if err := r.Kill(bounded(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	r.want(t, hypervisor.EventExited)
	r = start(t, z.h, m)
	waitReady(t, r)
	got = run(t, r, "/bin/sh", "-c", check)
	if again := strings.Fields(got.Stdout); got.ExitCode != 0 || len(again) != 6 || len(again[5]) < len(f[6]) {
		t.Errorf("the flattened disk after a boot: %+v, was %v", got, f)
	}
	if after, err := os.ReadFile(bottom); err != nil || string(after) != string(before) {
		t.Errorf("what lies below was changed (%v)", err)
	}
}

// deepen puts n layers over the root drive, with a file in each. It returns the files that the drive no longer writes, and
// the machine as it then is.
func (z *freezer) deepen(t *testing.T, r *running, m hypervisor.Machine, n int) (left []string, _ hypervisor.Machine) {
	t.Helper()
	for i := range n {
		run(t, r, "/bin/sh", "-c", fmt.Sprintf("echo %d >/layer%[1]d; sync", i))
		above := z.layer(t, m.Drives[0], filepath.Join(z.dir(t), rootDrive), m.UID)
		f := hypervisor.Freeze{Dir: z.dir(t), Overlays: map[string]string{rootDrive: above.Path}, Resume: true, Transient: true}
		if _, err := r.Freeze(bounded(t, time.Minute), f); err != nil {
			t.Fatalf("Freeze: %v", err)
		}
		left = append(left, m.Drives[0].Path)
		m.Drives = append([]hypervisor.Drive{above}, m.Drives[1:]...)
	}
	return left, m
}
