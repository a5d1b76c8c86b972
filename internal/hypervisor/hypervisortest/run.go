// Package hypervisortest holds what every hypervisor must do. qemu (with a real kernel)
// and fake pass it; only tests import it.
package hypervisortest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/hypervisor"
)

// Factory makes a hypervisor, as a newly started daemon would, and a machine that boots to a
// ready agent with a shell, with at least one writable drive. Each call makes a new machine.
type Factory func(t *testing.T) (hypervisor.Hypervisor, hypervisor.Machine)

// Layer puts an empty writable overlay at path over a drive's file, which from then on nobody writes, for a VMM of that uid.
type Layer func(t testing.TB, base hypervisor.Drive, path string, uid int) hypervisor.Drive

// bootTime bounds one boot; emulated guests on a loaded host take tens of seconds.
const bootTime = 120 * time.Second

// Run runs the suite.
func Run(t *testing.T, create Factory, layer Layer) {
	t.Run("Life", func(t *testing.T) { t.Parallel(); testLife(t, create) })
	t.Run("Kill", func(t *testing.T) { t.Parallel(); testKill(t, create) })
	t.Run("RecordFails", func(t *testing.T) { t.Parallel(); testRecordFails(t, create) })
	t.Run("StartFails", func(t *testing.T) { t.Parallel(); testStartFails(t, create) })
	t.Run("StartCancelled", func(t *testing.T) { t.Parallel(); testStartCancelled(t, create) })
	t.Run("Freeze", func(t *testing.T) { t.Parallel(); testFreeze(t, create, layer) })
	t.Run("Features", func(t *testing.T) { t.Parallel(); testFeatures(t, create) })
}

// bounded is a context that ends before the test binary would.
func bounded(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// start starts a machine, checks the order of things, and ends it with the test.
func start(t *testing.T, h hypervisor.Hypervisor, m hypervisor.Machine) *running {
	t.Helper()
	var recorded host.Process
	i, err := h.Start(bounded(t, bootTime), m, recorder(t, m, &recorded))
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	return begun(t, m, i, recorded)
}

// recorder checks that the process is there, and its guest does not run yet.
func recorder(t *testing.T, m hypervisor.Machine, recorded *host.Process) hypervisor.Record {
	procs := local.New()
	said := consoleSize(m)
	return func(h hypervisor.Handles) error {
		p := h.Process
		first := *recorded == host.Process{}
		*recorded = p
		if !procs.Alive(p) {
			t.Errorf("record was called with process %v, which does not run", p)
		}
		if first && consoleSize(m) != said {
			t.Error("the guest ran before record was called")
		}
		return nil
	}
}

// noRecord is for what no later daemon need find.
func noRecord(hypervisor.Handles) error { return nil }

func consoleSize(m hypervisor.Machine) int64 {
	fi, err := os.Stat(filepath.Join(m.Dir, "console.log"))
	if err != nil {
		return 0
	}
	return fi.Size()
}

// begun ends a new instance with the test.
func begun(t *testing.T, m hypervisor.Machine, i hypervisor.Instance, recorded host.Process) *running {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := i.Kill(ctx); err != nil {
			t.Errorf("Kill at the end: %v", err)
		}
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(m.Dir, "console.log"))
			v, _ := os.ReadFile(filepath.Join(m.Dir, "vmm.log"))
			t.Logf("console of %s:\n%s\nVMM:\n%s", m.ID, b[max(0, len(b)-3000):], v)
		}
	})
	if recorded == (host.Process{}) || i.Process() != recorded {
		t.Errorf("record got process %v, the instance has %v", recorded, i.Process())
	}
	return watch(t, i)
}

func testKill(t *testing.T, create Factory) {
	h, m := create(t)
	r := start(t, h, m)
	p := r.Process()
	if found, ok := h.Find(bounded(t, time.Minute), m); !ok || found != p {
		t.Errorf("Find = %v, %v; want %v", found, ok, p)
	}
	// A dial under way ends with the VMM, not with its context.
	dialled := make(chan error, 1)
	go func() {
		c, err := r.DialGuest(bounded(t, bootTime))
		if err == nil {
			// The guest was quick: then the stream must end.
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		dialled <- err
	}()
	if err := r.Kill(bounded(t, time.Minute)); err != nil {
		t.Fatalf("Kill: %v", err)
	}
	if local.New().Alive(p) {
		t.Error("alive after Kill")
	}
	if err := <-dialled; err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a dial during Kill: %v", err)
	}
	r.want(t, hypervisor.EventExited)
	r.wantClosed(t)
	if _, ok := h.Find(bounded(t, time.Minute), m); ok {
		t.Error("Find finds a VMM that was killed")
	}
	if _, err := h.Adopt(bounded(t, time.Minute), m, p, noRecord); err == nil {
		t.Error("Adopt took up a VMM that is gone")
	}
	if _, err := r.DialGuest(bounded(t, time.Minute)); err == nil {
		t.Error("DialGuest reached a VMM that is gone")
	}
	if err := r.Kill(bounded(t, time.Minute)); err != nil {
		t.Errorf("a second Kill: %v", err)
	}
}

func testRecordFails(t *testing.T, create Factory) {
	h, m := create(t)
	disk := errors.New("the disk is full")
	var p host.Process
	_, err := h.Start(bounded(t, time.Minute), m, func(rec hypervisor.Handles) error { p = rec.Process; return disk })
	if !errors.Is(err, disk) {
		t.Errorf("Start = %v, want the error of record", err)
	}
	if p.PID == 0 || local.New().Alive(p) {
		t.Errorf("process %v lives though it could not be recorded", p)
	}
	wantNothing(t, h, m)
}

func testStartFails(t *testing.T, create Factory) {
	h, m := create(t)
	m.Drives[0].Path = filepath.Join(m.Dir, "no-such-disk")
	var p host.Process
	_, err := h.Start(bounded(t, time.Minute), m, func(rec hypervisor.Handles) error { p = rec.Process; return nil })
	if err == nil {
		t.Fatal("Start succeeded without its disk")
	}
	if want := "no-such-disk"; !strings.Contains(err.Error(), want) {
		t.Errorf("the error does not say %q: %v", want, err)
	}
	if p.PID != 0 && local.New().Alive(p) {
		t.Errorf("process %v lives on", p)
	}
	wantNothing(t, h, m)
}

func testStartCancelled(t *testing.T, create Factory) {
	h, m := create(t)
	ctx, cancel := context.WithCancel(t.Context())
	var p host.Process
	_, err := h.Start(ctx, m, func(rec hypervisor.Handles) error { p = rec.Process; cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Start = %v, want context.Canceled", err)
	}
	if local.New().Alive(p) {
		t.Errorf("process %v lives on", p)
	}
	wantNothing(t, h, m)
}

func wantNothing(t *testing.T, h hypervisor.Hypervisor, m hypervisor.Machine) {
	t.Helper()
	if p, ok := h.Find(bounded(t, time.Minute), m); ok {
		t.Errorf("Find finds process %v after a start that failed", p)
	}
}

func testFeatures(t *testing.T, create Factory) {
	h, _ := create(t)
	f, err := h.Features(bounded(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if h.Name() == "" || f.Accel == "" || f.AccelReason == "" || f.Version == "" || f.MaxCPUs < 1 {
		t.Errorf("%s: %+v", h.Name(), f)
	}
	if again, err := h.Features(bounded(t, time.Minute)); err != nil || again != f {
		t.Errorf("the second answer differs: %+v, %v", again, err)
	}
}
