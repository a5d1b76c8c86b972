package guest_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/frame"
	"banger/internal/guest"
)

// talker is a client of attach or send, as the command line is, behind a Relay.
type talker struct {
	*frame.Writer
	in     *frame.Reader
	conn   net.Conn
	mu     sync.Mutex
	out    [2]bytes.Buffer
	last   api.Control
	ended  chan struct{}
	offset int64
}

func talk(t *testing.T, s *guest.SessionStream, rows, cols int) *talker {
	t.Helper()
	here, there := net.Pipe()
	k := &talker{Writer: frame.NewWriter(here), in: frame.NewReader(here), conn: here, ended: make(chan struct{}), offset: s.Stdout}
	go func() {
		_ = s.Relay(context.Background(), there, nil)
		_ = s.Close()
		_ = there.Close()
	}()
	t.Cleanup(func() { _ = here.Close() })
	if err := k.Control(api.Control{Type: api.ControlStart, Exec: &api.ExecSpec{Rows: rows, Cols: cols}}); err != nil {
		t.Fatal(err)
	}
	return k
}

// reads begins to read.
func (k *talker) reads() *talker {
	go func() {
		defer close(k.ended)
		for {
			f, err := k.in.Read()
			if err != nil {
				return
			}
			k.mu.Lock()
			switch f.Channel {
			case frame.Stdout:
				k.out[0].Write(f.Payload)
			case frame.Stderr:
				k.out[1].Write(f.Payload)
			case frame.Control:
				k.last, _ = f.Control()
			}
			k.mu.Unlock()
		}
	}()
	return k
}

func (k *talker) shown() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.out[0].String()
}

func (k *talker) beside() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.out[1].String()
}

func (k *talker) end(t *testing.T) api.Control {
	t.Helper()
	select {
	case <-k.ended:
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
	return k.last
}

func attach(t *testing.T, a *agent, id string, how api.SessionAttach) *talker {
	t.Helper()
	s, err := a.AttachSession(within(t), id, how)
	if err != nil {
		t.Fatal(err)
	}
	return talk(t, s, 30, 100)
}

func withStdin(spec api.ExecSpec) api.ExecSpec {
	spec.Stdin = true
	return spec
}

func TestAttach(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	startSession(t, a, "s", withStdin(sh(`while read l; do echo "got $l"; echo "err $l" >&2; test "$l" = end && exit 7; done`)))
	k := attach(t, a, "s", api.SessionAttach{Key: "mine"}).reads()
	_ = k.Write(frame.Stdin, []byte("one\n"))
	await(t, "the answer", func() bool { return k.shown() == "got one\n" && k.beside() == "err one\n" })
	if _, err := a.AttachSession(within(t), "s", api.SessionAttach{Key: "another"}); api.CodeOf(err) != api.CodeBusy {
		t.Errorf("a second one: %v", err)
	}
	if _, err := a.AttachSession(within(t), "s", api.SessionAttach{}); api.CodeOf(err) != api.CodeBusy {
		t.Errorf("one without a key: %v", err)
	}
	// The same one once more, whose connection broke: it goes on where it was.
	_ = k.Write(frame.Stdin, []byte("two\n"))
	await(t, "the answer", func() bool { return strings.HasSuffix(k.shown(), "two\n") && strings.HasSuffix(k.beside(), "two\n") })
	out, errs := int64(len("got one\n")), int64(len("err one\n"))
	again := attach(t, a, "s", api.SessionAttach{Key: "mine", StdoutOffset: &out, StderrOffset: &errs}).reads()
	k.end(t)
	await(t, "the rest", func() bool { return again.shown() == "got two\n" && again.beside() == "err two\n" })
	// Detached, it goes on; whoever comes sees what comes from then on.
	_ = again.conn.Close()
	send(t, a, "s", "three\n", false)
	var late *talker
	await(t, "it is free", func() bool {
		s, err := a.AttachSession(within(t), "s", api.SessionAttach{})
		if err == nil {
			late = talk(t, s, 0, 0).reads()
		}
		return err == nil
	})
	_ = late.Write(frame.Stdin, []byte("end\n"))
	if c := late.end(t); c.Type != api.ControlExit || c.ExitCode != 7 {
		t.Errorf("%+v", c)
	}
	if !strings.HasSuffix(late.shown(), "got end\n") || strings.Contains(late.shown(), "two") {
		t.Errorf("%q", late.shown())
	}
	for name, err := range map[string]error{
		"attach": second(a.AttachSession(within(t), "s", api.SessionAttach{})), "send": second(a.SendSession(within(t), "s", "")),
		"stop": second(a.StopSession(within(t), "s")),
	} {
		if api.CodeOf(err) != api.CodeConflict {
			t.Errorf("%s after the end: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// send sends text, and with eof the end.
func send(t *testing.T, a *agent, id, text string, eof bool) {
	t.Helper()
	s, err := a.SendSession(within(t), id, "")
	if err != nil {
		t.Fatal(err)
	}
	k := talk(t, s, 0, 0).reads()
	if text != "" { // nothing at all would be the end
		_ = k.Write(frame.Stdin, []byte(text))
	}
	if eof {
		_ = k.Control(api.Control{Type: api.ControlEOF})
	}
	_ = k.Write(frame.Stdin, nil)
	if c := k.end(t); c.Type != api.ControlExit {
		t.Errorf("%+v %v", c, c.Error)
	}
}

func TestSend(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	startSession(t, a, "cat", withStdin(sh("cat")))
	const large = 300_000
	send(t, a, "cat", strings.Repeat("x", large), false)
	send(t, a, "cat", "end", true)
	if s, err := a.WaitSession(within(t), "cat"); err != nil || s.StdoutBytes != large+3 {
		t.Errorf("%+v %v", s, err)
	}
	// Closed from the start, and ended.
	startSession(t, a, "deaf", sh("sleep 60"))
	if _, err := a.SendSession(within(t), "deaf", ""); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("%v", err)
	}
	startSession(t, a, "ended", withStdin(sh("cat; sleep 60")))
	send(t, a, "ended", "", true)
	if _, err := a.SendSession(within(t), "ended", ""); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("%v", err)
	}
	// Who sends to one that does not read, and goes, is in nobody's way.
	startSession(t, a, "slow", withStdin(sh("sleep 60")))
	s, err := a.SendSession(within(t), "slow", "")
	if err != nil {
		t.Fatal(err)
	}
	k := talk(t, s, 0, 0).reads()
	go func() { _ = k.Write(frame.Stdin, make([]byte, 1<<20)) }()
	time.Sleep(100 * time.Millisecond)
	_ = k.conn.Close()
	other, err := a.SendSession(within(t), "slow", "")
	if err != nil {
		t.Fatal(err)
	}
	_ = other.Close()
	for _, id := range []string{"deaf", "ended", "slow"} {
		if err := a.SignalSession(within(t), id, "KILL"); err != nil {
			t.Error(err)
		}
	}
}

// TestAttachStalled: somebody who does not read holds up neither the command nor anybody else, and is told that output is gone.
func TestAttachStalled(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	s, err := a.StartSession(within(t), agentapi.SessionStart{
		ID: "flood", LogLimitBytes: 1 << 20, Exec: withStdin(sh("read go; seq -f '%015.0f' 0 999999; cat")),
	})
	if err != nil {
		t.Fatal(err, s)
	}
	k := attach(t, a, "flood", api.SessionAttach{Key: "k"})
	send(t, a, "flood", "go\n", false)
	await(t, "all is written though nobody reads", func() bool {
		s, err := a.Session(within(t), "flood")
		return err == nil && s.StdoutBytes == 16_000_000
	})
	k.reads()
	if c := k.end(t); c.Type != api.ControlError || c.Error.Code != api.CodeBusy {
		t.Errorf("%+v", c)
	}
	seen := int64(len(k.shown()))
	if seen == 0 || seen > 8<<20 {
		t.Errorf("%d bytes were on their way", seen)
	}
	again, err := a.AttachSession(within(t), "flood", api.SessionAttach{Key: "k", StdoutOffset: &seen})
	if err != nil {
		t.Fatal(err)
	}
	if again.Stdout <= seen || again.Stdout < 16_000_000-2<<20 {
		t.Errorf("it goes on at %d", again.Stdout)
	}
	rest := talk(t, again, 0, 0).reads()
	send(t, a, "flood", "last\n", true)
	if c := rest.end(t); c.Type != api.ControlExit || !strings.HasSuffix(rest.shown(), "000000000999999\nlast\n") {
		t.Errorf("%+v", c)
	}
}

func TestAttachTerminal(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	spec := withStdin(sh(`stty -echo; printf 'old\n\033[?25lscreen\n'; trap 'echo resized' WINCH; while :; do read l && { stty size; test "$l" = end && exit 3; }; done`))
	spec.TTY, spec.Rows, spec.Cols = true, 30, 100
	startSession(t, a, "t", spec)
	await(t, "the first screen", func() bool { s, _ := a.Session(within(t), "t"); return s.StdoutBytes > 15 })
	k := attach(t, a, "t", api.SessionAttach{}).reads()
	await(t, "the screen", func() bool {
		return strings.Contains(k.shown(), "screen\r\nresized") && k.beside() == "\x1b[H\x1b[2J\x1b[?25l"
	})
	_ = k.Control(api.Control{Type: api.ControlResize, Rows: 20, Cols: 50})
	_ = k.Write(frame.Stdin, []byte("x\n"))
	await(t, "the new size", func() bool { return strings.Contains(k.shown(), "20 50") })
	_ = k.Write(frame.Stdin, []byte("end\n"))
	if c := k.end(t); c.ExitCode != 3 {
		t.Errorf("%+v", c)
	}
}

func TestSessionStages(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	for _, tt := range []struct {
		stage api.SessionStage
		start agentapi.SessionStart
	}{
		{api.StageCwd, agentapi.SessionStart{Exec: api.ExecSpec{Argv: []string{"true"}, Cwd: "/no/such"}}},
		{api.StageCommand, agentapi.SessionStart{Exec: sh("true"), Require: []string{"sh", "no-such"}}},
		{api.StageLaunch, agentapi.SessionStart{Exec: api.ExecSpec{Argv: []string{"no-such"}}}},
		{api.StageLaunch, agentapi.SessionStart{Exec: api.ExecSpec{Argv: []string{"true"}, User: "nobody-knows-him"}}},
	} {
		tt.start.ID, tt.start.Name = strings.ReplaceAll(string(tt.stage), "_", "-")+"-1", "name"
		s, err := a.StartSession(within(t), tt.start)
		if err != nil || s.State != api.SessionFailed || s.Stage != tt.stage || s.Error == nil {
			t.Errorf("%s: %+v %v", tt.stage, s, err)
		}
		// The name is free again, the log is empty or says why.
		r, _, err := a.SessionLog(within(t), s.ID, "stderr", guest.LogFrom{}, true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(r); err != nil {
			t.Error(err)
		}
		_ = r.Close()
	}
	if list, err := a.Sessions(within(t)); err != nil || len(list) != 1 {
		t.Errorf("%+v %v", list, err)
	}
	if _, err := a.StartSession(within(t), agentapi.SessionStart{ID: "x", Name: "name", Exec: sh("sleep 60")}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.StartSession(within(t), agentapi.SessionStart{ID: "y", Name: "name", Exec: sh("true")}); api.CodeOf(err) != api.CodeExists {
		t.Errorf("%v", err)
	}
	s, err := a.StopSession(within(t), "x")
	if err != nil || s.State != api.SessionStopping && s.State != api.SessionExited {
		t.Errorf("%+v %v", s, err)
	}
	if s, err := a.WaitSession(within(t), "x"); err != nil || s.Signal != "TERM" {
		t.Errorf("%+v %v", s, err)
	}
}
