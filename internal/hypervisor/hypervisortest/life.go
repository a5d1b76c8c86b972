package hypervisortest

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/api/agentapi"
	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/hypervisor"
)

// grownBytes is more than any factory's drive has.
const grownBytes = 3 << 30

// testLife leads one guest through everything, since a boot is the expensive part.
func testLife(t *testing.T, create Factory) {
	h, m := create(t)
	r := start(t, h, m)
	first := waitReady(t, r)

	t.Run("Exec", func(t *testing.T) {
		got := run(t, r, "/bin/sh", "-c", `echo "in the guest"; echo "beside" >&2; exit 42`)
		if got.ExitCode != 42 || got.Stdout != "in the guest\n" || got.Stderr != "beside\n" {
			t.Errorf("exec: %+v", got)
		}
	})
	t.Run("ConcurrentDials", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if got, err := health(bounded(t, time.Minute), r); err != nil || got.AgentID != first.AgentID {
					t.Errorf("health: %+v, %v", got, err)
				}
			})
		}
		wg.Wait()
	})
	t.Run("Drives", func(t *testing.T) { testDrives(t, h, m, r) })
	t.Run("AdoptRefusesStrangers", func(t *testing.T) { testStrangers(t, h, m, r) })

	second := adopt(t, create, m, r)
	t.Run("AdoptedGuest", func(t *testing.T) {
		if got, err := health(bounded(t, time.Minute), second); err != nil || got.BootID != first.BootID || got.AgentID != first.AgentID {
			t.Errorf("health: %+v, %v; want boot %s", got, err, first.BootID)
		}
	})
	t.Run("Reset", func(t *testing.T) { testReset(t, second, first) })
	t.Run("PowerOff", func(t *testing.T) { testPowerOff(t, h, m, second) })
}

func testDrives(t *testing.T, h hypervisor.Hypervisor, m hypervisor.Machine, r *running) {
	stats, err := r.DriveStats(bounded(t, time.Minute))
	if err != nil || len(stats) != len(m.Drives) {
		t.Fatalf("DriveStats = %v, %v", stats, err)
	}
	last := m.Drives[len(m.Drives)-1]
	if last.Format == "raw" {
		if err := os.Truncate(last.Path, grownBytes); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.GrowDrive(bounded(t, time.Minute), last.Serial, grownBytes); err != nil {
		t.Errorf("GrowDrive: %v", err)
	}
	// A fake guest has no disks of its own to look at.
	if got := run(t, r, "/bin/sh", "-c", "cat /sys/block/vd?/size"); h.Name() != "fake" && !strings.Contains(got.Stdout, strconv.Itoa(grownBytes/512)+"\n") {
		t.Errorf("no drive of %d sectors in the guest: %+v", grownBytes/512, got)
	}
	if err := r.GrowDrive(bounded(t, time.Minute), "no-such-drive", grownBytes); err == nil {
		t.Error("GrowDrive grew a drive that is not there")
	}
}

func testStrangers(t *testing.T, h hypervisor.Hypervisor, m hypervisor.Machine, r *running) {
	procs := local.New()
	me, ok := procs.Identify(os.Getpid())
	if !ok {
		t.Fatal("cannot identify the test's own process")
	}
	reused := r.Process()
	reused.StartTime++
	other := m
	other.Dir = t.TempDir()
	for name, try := range map[string]func() (hypervisor.Instance, error){
		"another program": func() (hypervisor.Instance, error) { return h.Adopt(bounded(t, time.Minute), m, me, noRecord) },
		"a reused pid":    func() (hypervisor.Instance, error) { return h.Adopt(bounded(t, time.Minute), m, reused, noRecord) },
		"another machine's": func() (hypervisor.Instance, error) {
			return h.Adopt(bounded(t, time.Minute), other, r.Process(), noRecord)
		},
	} {
		if i, err := try(); err == nil {
			i.Detach()
			t.Errorf("Adopt took up %s process", name)
		}
	}
	if !procs.Alive(r.Process()) || !procs.Alive(me) {
		t.Error("a refused Adopt ended a process")
	}
	if p, ok := h.Find(bounded(t, time.Minute), other); ok {
		t.Errorf("Find finds %v for a machine that was never started", p)
	}
}

// adopt plays a daemon that goes away and another that comes.
func adopt(t *testing.T, create Factory, m hypervisor.Machine, r *running) *running {
	t.Helper()
	r.Detach()
	r.wantClosed(t)
	if _, err := r.DialGuest(bounded(t, 5*time.Second)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("DialGuest after Detach: %v", err)
	}
	successor, _ := create(t)
	p, ok := successor.Find(bounded(t, time.Minute), m)
	if !ok || p != r.Process() {
		t.Fatalf("Find = %v, %v after Detach; want %v", p, ok, r.Process())
	}
	i, err := successor.Adopt(bounded(t, time.Minute), m, p, noRecord)
	if err != nil {
		t.Fatalf("Adopt: %v", err)
	}
	t.Cleanup(i.Detach)
	return watch(t, i)
}

func testReset(t *testing.T, r *running, before agentapi.Health) {
	// A stream that is open ends with the guest's old life.
	open, err := r.DialGuest(bounded(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	r.wantQuiet(t)
	shutdown(t, r, true)
	r.want(t, hypervisor.EventReset)
	ended := make(chan error, 1)
	go func() { _, err := open.Read(make([]byte, 1)); ended <- err }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a stream of the old boot delivers bytes")
		}
	case <-time.After(10 * time.Second):
		t.Error("a stream of the old boot stays open after the reset")
	}
	after := waitReady(t, r)
	if after.BootID == before.BootID || after.AgentID == before.AgentID {
		t.Errorf("the guest has not rebooted: %+v, before %+v", after, before)
	}
	if got := run(t, r, "/bin/echo", "again"); got.Stdout != "again\n" {
		t.Errorf("exec after the reset: %+v", got)
	}
}

func testPowerOff(t *testing.T, h hypervisor.Hypervisor, m hypervisor.Machine, r *running) {
	p := r.Process()
	shutdown(t, r, false)
	r.want(t, hypervisor.EventShutdown)
	e := r.want(t, hypervisor.EventExited)
	if !strings.Contains(e.Detail, "powered off") {
		t.Errorf("the exit's detail is %q", e.Detail)
	}
	r.wantClosed(t)
	if err := local.New().Wait(bounded(t, time.Minute), p); err != nil {
		t.Errorf("the VMM is still there: %v", err)
	}
	wantNothing(t, h, m)
	if _, err := h.Adopt(bounded(t, time.Minute), m, host.Process{PID: p.PID, StartTime: p.StartTime}, noRecord); err == nil {
		t.Error("Adopt took up a VMM that has ended")
	}
}
