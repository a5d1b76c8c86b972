package fake

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/host/local"
	"banger/internal/hypervisor"
)

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// begin starts a guest that behaves as the words say.
func begin(t *testing.T, words string) (hypervisor.Instance, hypervisor.Machine) {
	t.Helper()
	h, m := newFake(t), testMachine(t)
	if err := os.WriteFile(h.o.Behaviour, []byte(words+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	i, err := h.Start(within(t, 20*time.Second), m, func(hypervisor.Handles) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Kill(within(t, 20*time.Second)) })
	return i, m
}

func post(ctx context.Context, i hypervisor.Instance, method, path, body string, out any) error {
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
		return errors.New(res.Status)
	}
	return json.NewDecoder(res.Body).Decode(out)
}

func next(t *testing.T, i hypervisor.Instance) hypervisor.Event {
	t.Helper()
	select {
	case e := <-i.Events():
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no event")
	}
	return hypervisor.Event{}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	h, m := newFake(t), testMachine(t)
	if err := os.WriteFile(h.o.Behaviour, []byte(startFails), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := h.Start(within(t, 20*time.Second), m, func(hypervisor.Handles) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "Cannot allocate memory") {
		t.Errorf("error: %v", err)
	}
}

func TestSilent(t *testing.T) {
	t.Parallel()
	i, m := begin(t, silent)
	_, err := i.DialGuest(within(t, 300*time.Millisecond))
	if !errors.Is(err, context.DeadlineExceeded) || api.CodeOf(err) != api.CodeNotReady {
		t.Errorf("DialGuest: %v", err)
	}
	if b, _ := os.ReadFile(filepath.Join(m.Dir, "console.log")); !strings.Contains(string(b), "waiting for the disk") {
		t.Errorf("console: %q", b)
	}
}

func TestNeverReady(t *testing.T) {
	t.Parallel()
	i, _ := begin(t, neverReady)
	var h agentapi.Health
	if err := post(within(t, 20*time.Second), i, http.MethodGet, "/health", "", &h); err != nil || h.Ready || h.Waiting == "" {
		t.Errorf("%+v, %v", h, err)
	}
}

func TestIgnoresStop(t *testing.T) {
	t.Parallel()
	i, _ := begin(t, ignoresStop)
	if err := post(within(t, 20*time.Second), i, http.MethodPost, "/shutdown", "{}", &struct{}{}); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-i.Events():
		t.Errorf("event %+v", e)
	case <-time.After(200 * time.Millisecond):
	}
}

func TestDies(t *testing.T) {
	t.Parallel()
	i, _ := begin(t, dies)
	if e := next(t, i); e.Kind != hypervisor.EventExited || !strings.Contains(e.Detail, "exit code 3") {
		t.Errorf("event %+v", e)
	}
}

func TestSignalsActForTheGuest(t *testing.T) {
	t.Parallel()
	i, _ := begin(t, "")
	for _, s := range []struct {
		signal syscall.Signal
		want   []hypervisor.EventKind
	}{
		{syscall.SIGUSR1, []hypervisor.EventKind{hypervisor.EventReset}},
		{syscall.SIGUSR2, []hypervisor.EventKind{hypervisor.EventShutdown, hypervisor.EventExited}},
	} {
		var h agentapi.Health
		if err := post(within(t, 20*time.Second), i, http.MethodGet, "/health", "", &h); err != nil {
			t.Fatal(err)
		}
		if err := local.New().Signal(i.Process(), s.signal); err != nil {
			t.Fatal(err)
		}
		for _, want := range s.want {
			if e := next(t, i); e.Kind != want {
				t.Errorf("after %s: event %+v, want %s", s.signal, e, want)
			}
		}
	}
}

// What runs in the guest must end with a VMM that is killed: nothing may be left behind.
func TestCommandsEndWithTheVMM(t *testing.T) {
	t.Parallel()
	i, m := begin(t, "")
	// The FIFO's write end is held by the command and by its orphan: EOF means both are gone.
	fifo := filepath.Join(m.Dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(agentapi.SessionStart{ID: "main", Exec: api.ExecSpec{
		Argv: []string{"/bin/sh", "-c", `exec 9>"$0"; (setsid sleep 1000 &) ; echo up >&9; sleep 1000`, fifo}, Cwd: "/",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := post(within(t, 20*time.Second), i, http.MethodPost, "/sessions", string(body), &struct{}{}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if err := i.Kill(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := f.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a command of the guest lives on: %d, %v", n, err)
	}
}
