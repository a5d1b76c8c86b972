package hypervisortest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/frame"
	"banger/internal/hypervisor"
)

// running is an instance whose events are read.
type running struct {
	hypervisor.Instance
	events chan hypervisor.Event
}

func watch(t *testing.T, i hypervisor.Instance) *running {
	t.Helper()
	r := &running{Instance: i, events: make(chan hypervisor.Event, 100)}
	go func() {
		for e := range i.Events() {
			r.events <- e
		}
		close(r.events)
	}()
	return r
}

// want waits for the next event, which must be of this kind.
func (r *running) want(t *testing.T, kind hypervisor.EventKind) hypervisor.Event {
	t.Helper()
	select {
	case e, ok := <-r.events:
		if !ok {
			t.Fatalf("the events ended; %s was to come", kind)
		}
		if e.Kind != kind || time.Since(e.At).Abs() > time.Minute {
			t.Fatalf("event %+v, want %s", e, kind)
		}
		return e
	case <-time.After(bootTime):
		t.Fatalf("no event; %s was to come", kind)
	}
	return hypervisor.Event{}
}

func (r *running) wantClosed(t *testing.T) {
	t.Helper()
	select {
	case e, ok := <-r.events:
		if ok {
			t.Errorf("another event: %+v", e)
		}
	case <-time.After(10 * time.Second):
		t.Error("the events do not end")
	}
}

// call makes one HTTP call to the agent on a stream of its own.
func call(ctx context.Context, r *running, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://guest"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	tr := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return r.DialGuest(ctx) },
	}
	defer tr.CloseIdleConnections()
	res, err := tr.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, b)
	}
	return json.Unmarshal(b, out)
}

func health(ctx context.Context, r *running) (agentapi.Health, error) {
	var got agentapi.Health
	err := call(ctx, r, http.MethodGet, "/health", nil, &got)
	return got, err
}

// waitReady asks until the guest is ready. DialGuest does the waiting for the agent;
// what is asked again is whether the agent has finished.
func waitReady(t *testing.T, r *running) agentapi.Health {
	t.Helper()
	ctx := bounded(t, bootTime)
	for {
		got, err := health(ctx, r)
		if err == nil && got.Ready {
			return got
		}
		if ctx.Err() != nil {
			t.Fatalf("the guest is not ready: %+v, %v", got, err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// run runs a command in the guest over the real framing.
func run(t *testing.T, r *running, argv ...string) api.ExecResult {
	t.Helper()
	got, err := exec(bounded(t, time.Minute), r, api.ExecSpec{Argv: argv, Cwd: "/"})
	if err != nil {
		t.Errorf("exec %q: %v", argv, err)
	}
	return got
}

func exec(ctx context.Context, r *running, spec api.ExecSpec) (api.ExecResult, error) {
	var got api.ExecResult
	conn, frames, err := begin(ctx, r, spec)
	if err != nil {
		return got, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for {
		f, err := frames.Read()
		if err != nil {
			return got, err
		}
		switch f.Channel {
		case frame.Stdout:
			got.Stdout += string(f.Payload)
		case frame.Stderr:
			got.Stderr += string(f.Payload)
		case frame.Control:
			c, err := f.Control()
			if err != nil || c.Type == api.ControlExit {
				got.ExitCode = c.ExitCode
				return got, err
			}
			if c.Type == api.ControlError {
				return got, c.Error
			}
		case frame.Stdin: // never comes this way
		}
	}
}

// wantQuiet sees that nothing has happened that was not asked for: a guest that has reset by itself is told from one that does
// not reset when it is asked to.
func (r *running) wantQuiet(t *testing.T) {
	t.Helper()
	select {
	case e, ok := <-r.events:
		t.Fatalf("event %+v (%v), which nobody has asked for", e, ok)
	default:
	}
}

// begin starts a command; the caller closes its connection.
func begin(ctx context.Context, r *running, spec api.ExecSpec) (net.Conn, *frame.Reader, error) {
	conn, err := r.DialGuest(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	frames, err := upgrade(ctx, conn, spec)
	if err != nil {
		conn.Close()
	}
	return conn, frames, err
}

func upgrade(ctx context.Context, conn net.Conn, spec api.ExecSpec) (*frame.Reader, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://guest/exec", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", api.UpgradeFrames)
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, req) //nolint:bodyclose // after an upgrade the body is the connection, which is closed
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("POST /exec: %s", res.Status)
	}
	return frame.NewReader(in), frame.NewWriter(conn).Control(api.Control{Type: api.ControlStart, Exec: &spec})
}

// shutdown asks the guest to end; the answer may be lost with the guest.
func shutdown(t *testing.T, r *running, reboot bool) {
	t.Helper()
	err := call(bounded(t, time.Minute), r, http.MethodPost, "/shutdown", agentapi.Shutdown{Reboot: reboot, TimeoutMS: 2000}, &struct{}{})
	if err != nil {
		t.Logf("shutdown: %v", err)
	}
}
