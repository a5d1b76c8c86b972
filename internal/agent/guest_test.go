package agent_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/frame"
	"banger/internal/frame/link"
)

// guest is a running QEMU with a session to the agent in it.
type guest struct {
	t       testing.TB
	cmd     *exec.Cmd
	console string
	socket  string
	qmp     string
	ended   chan struct{}
	http    *http.Client
	session *link.Session
}

// connect dials the port until the agent answers. It is called again after a reboot.
func (g *guest) connect() {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	go func() {
		select {
		case <-g.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	if g.session != nil {
		_ = g.session.Close()
	}
	var conn net.Conn
	var err error
	for conn == nil && ctx.Err() == nil {
		if conn, err = net.Dial("unix", g.socket); err != nil {
			time.Sleep(5 * time.Millisecond) // QEMU makes the socket some time after its start
		}
	}
	if err != nil {
		g.t.Fatalf("no channel to the guest: %v", err)
	}
	g.session, err = link.Dial(ctx, conn, uint64(time.Now().UnixNano()))
	if err != nil {
		g.t.Fatalf("the agent does not answer: %v", err)
	}
	s := g.session
	g.http = &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return s.Open(ctx) }}}
}

// call sends in as JSON and reads the answer into out.
func (g *guest) call(method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, "http://guest"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := g.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, data)
	}
	if b, ok := out.(*[]byte); ok {
		*b = data
		return nil
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

func (g *guest) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *guest) health() agentapi.Health {
	g.t.Helper()
	var h agentapi.Health
	g.must(g.call("GET", "/health", nil, &h))
	return h
}

// waitReady waits for the agent's word.
func (g *guest) waitReady(limit time.Duration) agentapi.Health {
	g.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		h := g.health()
		if h.Ready {
			return h
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("not ready after %v: %+v", limit, h)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (g *guest) personalise(p agentapi.Personalise) agentapi.Health {
	g.t.Helper()
	if !p.Time.IsZero() {
		p.Time = time.Now()
	}
	var h agentapi.Health
	g.must(g.call("POST", "/personalise", p, &h))
	return h
}

// exec runs a command in the guest to its end.
func (g *guest) exec(spec api.ExecSpec) (stdout, stderr string, exit api.Control) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := g.session.Open(ctx)
	g.must(err)
	defer conn.Close()
	g.must(conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = fmt.Fprintf(conn, "POST /exec HTTP/1.1\r\nHost: guest\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", api.UpgradeFrames)
	g.must(err)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	g.must(err)
	if res.StatusCode != http.StatusSwitchingProtocols {
		g.t.Fatalf("exec: %s", res.Status)
	}
	g.must(frame.NewWriter(conn).Control(api.Control{Type: api.ControlStart, Exec: &spec}))
	frames := frame.NewReader(in)
	for {
		f, err := frames.Read()
		g.must(err)
		switch f.Channel {
		case frame.Stdout:
			stdout += string(f.Payload)
		case frame.Stderr:
			stderr += string(f.Payload)
		case frame.Control:
			exit, err = f.Control()
			g.must(err)
			return stdout, stderr, exit
		}
	}
}

// sh runs a shell script in the guest and returns what it printed.
func (g *guest) sh(script string) string {
	g.t.Helper()
	out, errs, exit := g.exec(api.ExecSpec{Argv: []string{"/bin/sh", "-c", script}})
	if exit.Type != api.ControlExit {
		g.t.Errorf("%s: %+v", script, exit.Error)
	}
	return strings.TrimSpace(out + errs)
}

// end waits for QEMU to be gone.
func (g *guest) waitEnd(limit time.Duration) {
	g.t.Helper()
	select {
	case <-g.ended:
	case <-time.After(limit):
		g.t.Fatalf("the guest has not ended after %v", limit)
	}
}

// healthAfter waits for an agent of which ok is true, connecting anew.
func (g *guest) healthAfter(ok func(agentapi.Health) bool) agentapi.Health {
	g.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var h agentapi.Health
		if err := g.call("GET", "/health", nil, &h); err != nil {
			g.connect()
			continue
		}
		if ok(h) {
			return h
		}
	}
	g.t.Fatal("no such agent came")
	return agentapi.Health{}
}

// agentPID is the process that serves: neither the one that looks after it, nor a child that has
// its command line until it executes another program.
func (g *guest) agentPID() string {
	g.t.Helper()
	return g.sh("for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' < $p/cmdline)\" in '@banger-agent '*) echo ${p#/proc/};; esac; done 2>/dev/null | sort -n | head -1")
}

// qmpCommand sends one command to QEMU.
func (g *guest) qmpCommand(command string) {
	g.t.Helper()
	conn, err := net.Dial("unix", g.qmp)
	g.must(err)
	defer conn.Close()
	in := json.NewDecoder(conn)
	for _, c := range []string{"", `{"execute":"qmp_capabilities"}`, command} {
		_, err := conn.Write([]byte(c))
		g.must(err)
		var answer map[string]any
		g.must(in.Decode(&answer))
		if answer["error"] != nil {
			g.t.Fatalf("%s: %v", c, answer)
		}
	}
}

// logIdle logs what a guest costs that does nothing, and fails when that is plainly too much.
func (g *guest) logIdle(span time.Duration) {
	g.t.Helper()
	time.Sleep(2 * time.Second) // the kernel's own after-work
	ticks := func() int {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", g.cmd.Process.Pid))
		g.must(err)
		f := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		user, _ := strconv.Atoi(f[11])
		system, _ := strconv.Atoi(f[12])
		return user + system
	}
	agent := func() string {
		return g.sh("cut -d' ' -f14,15 /proc/" + g.agentPID() + "/stat")
	}
	in := agent()
	had := ticks()
	time.Sleep(span)
	percent := float64(ticks()-had) / span.Seconds() // a tick is a hundredth of a second
	g.t.Logf("idle: %.2f %% of a core; the agent's ticks before and after: %s, %s", percent, in, agent())
	if percent > 5 {
		g.t.Errorf("an idle guest takes %.2f %% of a core", percent)
	}
}

// await runs a script until it prints want: what it looks at happens behind our back.
func (g *guest) await(script, want string) {
	g.t.Helper()
	got := ""
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if got = g.sh(script); got == want {
			return
		}
	}
	g.t.Errorf("%s: got %q, want %q", script, got, want)
}
