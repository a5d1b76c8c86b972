package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/host/local"
	"banger/internal/hypervisor"
	"banger/internal/loud"
)

// call asks the agent of a guest; it waits for the agent.
func call(ctx context.Context, i hypervisor.Instance, method, path, body string, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://guest"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	tr := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return i.DialGuest(ctx) },
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s", method, path, res.Status)
	}
	return json.NewDecoder(res.Body).Decode(out)
}

// session starts a shell script in the guest and does not wait for it.
func session(t testing.TB, i hypervisor.Instance, id, script string) {
	t.Helper()
	body, err := json.Marshal(agentapi.SessionStart{ID: id, Exec: api.ExecSpec{Argv: []string{"/bin/sh", "-c", script}, Cwd: "/"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := call(bounded(t, time.Minute), i, http.MethodPost, "/sessions", string(body), &struct{}{}); err != nil {
		t.Fatal(err)
	}
}

func awaitAgent(t testing.TB, i hypervisor.Instance) agentapi.Health {
	t.Helper()
	var h agentapi.Health
	if err := call(bounded(t, 2*time.Minute), i, http.MethodGet, "/health", "", &h); err != nil {
		t.Fatal(err)
	}
	return h
}

func nextEvent(t testing.TB, i hypervisor.Instance, want hypervisor.EventKind) hypervisor.Event {
	t.Helper()
	select {
	case e := <-i.Events():
		if e.Kind != want {
			t.Fatalf("event %+v, want %s", e, want)
		}
		return e
	case <-time.After(2 * time.Minute):
		t.Fatalf("no event, want %s", want)
	}
	return hypervisor.Event{}
}

// One guest for all that needs no reboot in between.
func TestVMM(t *testing.T) {
	t.Parallel()
	h, m := newHypervisor(t), theLab.Machine(t)
	inst := startMachine(t, h, m)
	i, ok := inst.(*instance)
	if !ok {
		t.Fatalf("%T", inst)
	}
	first := awaitAgent(t, i)

	t.Run("Confined", func(t *testing.T) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", i.Process().PID))
		if err != nil {
			t.Fatal(err)
		}
		status := strings.ReplaceAll(string(b), "\t", " ")
		want := []string{"\nCapEff: 0000000000000000\n", "\nCapPrm: 0000000000000000\n", "\nNoNewPrivs: 1\n", "\nSeccomp: 2\n"}
		if os.Geteuid() == 0 {
			want = append(want, fmt.Sprintf("\nUid: %d %[1]d %[1]d %[1]d\n", m.UID), fmt.Sprintf("\nGid: %d %[1]d %[1]d %[1]d\n", m.GID), "\nGroups:  \n")
		}
		for _, w := range want {
			if !strings.Contains(status, w) {
				t.Errorf("no %q in\n%s", w, status)
			}
		}
		if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", i.Process().PID)); strings.TrimSpace(string(b)) != "500" {
			t.Errorf("oom_score_adj is %q", b)
		}
	})
	t.Run("ControlConnectionComesBack", func(t *testing.T) {
		old := i.currentControl()
		_ = old.Close()
		ctx := bounded(t, 20*time.Second)
		for i.currentControl() == old && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		if _, err := i.DriveStats(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Run("Panic", func(t *testing.T) {
		session(t, i, "panic", "echo c > /proc/sysrq-trigger")
		nextEvent(t, i, hypervisor.EventReset)
		if again := awaitAgent(t, i); again.BootID == first.BootID {
			t.Error("the guest has not booted again")
		}
		if b, _ := os.ReadFile(consoleLog(&m)); !strings.Contains(string(b), "banger") && !strings.Contains(string(b), "Rebooting") {
			t.Errorf("the console says nothing of the panic: %s", b)
		}
	})
	t.Run("KilledByOthers", func(t *testing.T) {
		if err := local.New().Signal(i.Process(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if e := nextEvent(t, i, hypervisor.EventExited); !strings.Contains(e.Detail, "signal 9") {
			t.Errorf("detail %q", e.Detail)
		}
	})
}

// A full host disk must stop the guest, not its writes; room lets it go on.
func TestFullHostDisk(t *testing.T) {
	t.Parallel()
	h, m := newHypervisor(t), theLab.Machine(t)
	if os.Geteuid() != 0 {
		loud.Skip(t, "a small file system needs root")
	}
	small := filepath.Join(filepath.Dir(m.Dir), "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", small, "tmpfs", 0, "size=8m,mode=755"); err != nil {
		loud.Skip(t, "cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	m.Drives[1].Path = filepath.Join(small, "work")
	if err := os.WriteFile(m.Drives[1].Path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(m.Drives[1].Path, 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(m.Drives[1].Path, m.UID, m.GID); err != nil {
		t.Fatal(err)
	}
	i := startMachine(t, h, m)
	awaitAgent(t, i)
	session(t, i, "fill", "tr '\\0' x </dev/zero | dd of=/dev/vdb bs=1M count=20 iflag=fullblock 2>&1 && sync && echo all written")
	if e := nextEvent(t, i, hypervisor.EventPaused); e.Detail != diskFull {
		t.Errorf("detail %q", e.Detail)
	}
	if err := unix.Mount("none", small, "tmpfs", unix.MS_REMOUNT, "size=200m,mode=755"); err != nil {
		t.Fatal(err)
	}
	nextEvent(t, i, hypervisor.EventResumed)
	ctx := bounded(t, time.Minute)
	for {
		var s agentapi.Session
		if err := call(ctx, i, http.MethodGet, "/sessions/fill", "", &s); err != nil {
			t.Fatal(err)
		}
		if s.State == "exited" {
			if s.ExitCode != 0 {
				t.Errorf("the guest's writes failed: %+v", s)
			}
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// BenchmarkBoot measures a cold boot: to QMP's answer, and to the agent's first.
func BenchmarkBoot(b *testing.B) {
	h := newHypervisor(b)
	if _, err := h.Features(bounded(b, time.Minute)); err != nil {
		b.Fatal(err)
	}
	var started, answered time.Duration
	for range b.N {
		m := theLab.Machine(b)
		begin := time.Now()
		i, err := h.Start(bounded(b, time.Minute), m, func(hypervisor.Handles) error { return nil })
		if err != nil {
			b.Fatal(err)
		}
		started += time.Since(begin)
		awaitAgent(b, i)
		answered += time.Since(begin)
		if err := i.Kill(bounded(b, time.Minute)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(started.Milliseconds())/float64(b.N), "start-ms")
	b.ReportMetric(float64(answered.Milliseconds())/float64(b.N), "agent-ms")
}
