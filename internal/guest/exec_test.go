package guest_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/internal/frame"
	"banger/internal/guest"
	"banger/internal/loud"
)

func sh(script string) api.ExecSpec { return api.ExecSpec{Argv: []string{"sh", "-c", script}} }

func run(t *testing.T, a *agent, spec api.ExecSpec) api.ExecResult {
	t.Helper()
	res, err := a.ExecWait(within(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("\x00\x01 no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		argv   []string
		code   int
		signal string
		stderr string
	}{
		{[]string{"true"}, 0, "", ""},
		{[]string{"sh", "-c", "exit 42"}, 42, "", ""},
		{[]string{"no-such-program"}, 127, "", "not found in PATH"},
		{[]string{"/no/such/program"}, 127, "", "no such file"},
		{[]string{plain}, 126, "", "not executable"},
		{[]string{garbage}, 126, "", "not a program"},
		{[]string{"/"}, 126, "", "directory"},
		{[]string{"sh", "-c", "kill -KILL $$"}, 137, "KILL", ""},
		{[]string{"sh", "-c", "kill -TERM $$"}, 143, "TERM", ""},
	} {
		res := run(t, a, api.ExecSpec{Argv: c.argv})
		if res.ExitCode != c.code || res.Signal != c.signal || !strings.Contains(res.Stderr, c.stderr) {
			t.Errorf("%v: exit code %d, signal %q, stderr %q", c.argv, res.ExitCode, res.Signal, res.Stderr)
		}
	}
}

func TestArgvIsNeverJoinedOrSplit(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	argv := []string{"printf", "%s|", "a b", "", "$HOME", "*", "c\nd", "'\""}
	if res := run(t, a, api.ExecSpec{Argv: argv}); res.Stdout != "a b||$HOME|*|c\nd|'\"|" {
		t.Errorf("the command saw %q", res.Stdout)
	}
}

func TestSpecsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	for name, spec := range map[string]api.ExecSpec{
		"no argv":       {},
		"unknown user":  {Argv: []string{"true"}, User: "nobody-of-that-name"},
		"unknown group": {Argv: []string{"true"}, User: "0:no-such-group"},
		"relative cwd":  {Argv: []string{"true"}, Cwd: "tmp"},
		"missing cwd":   {Argv: []string{"true"}, Cwd: "/no/such/dir"},
	} {
		if _, err := a.ExecWait(within(t), spec); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	spec := sh(`echo "$HOME,$USER,$LOGNAME,$LANG,$A,$(pwd),${BANGER_SECRET-unset}"; command -v env >/dev/null && echo "$PATH"`)
	spec.Env, spec.Cwd = []string{"A=b=c", "LANG=C"}, "/"
	res := run(t, a, spec)
	lines := strings.Split(res.Stdout, "\n")
	if len(lines) < 2 || !strings.HasSuffix(lines[0], ",C,b=c,/,unset") || !strings.Contains(lines[1], "/usr/bin") {
		t.Errorf("stdout %q, stderr %q", res.Stdout, res.Stderr)
	}
}

func TestUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		loud.Skip(t, "switching users takes root")
	}
	t.Parallel()
	a := start(t, nil)
	for spec, want := range map[string]string{
		"":            "0 0 /root",
		"nobody":      "65534 65534",
		"65534":       "65534 65534",
		"daemon:adm":  "1 4",
		"12345":       "12345 0 /",
		"12345:54321": "12345 54321 /",
	} {
		s := sh(`echo "$(id -u) $(id -g) $HOME"`)
		s.User, s.Cwd = spec, "/"
		if res := run(t, a, s); !strings.HasPrefix(res.Stdout, want) {
			t.Errorf("user %q: %q, want %q (%s)", spec, res.Stdout, want, res.Stderr)
		}
	}
}

func TestOutputIsKeptApartAndCapped(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	res := run(t, a, sh("echo out; echo err >&2"))
	if res.Stdout != "out\n" || res.Stderr != "err\n" || res.Truncated {
		t.Errorf("%+v", res)
	}
	spec := sh("head -c 3000000 /dev/zero | tr '\\0' x; echo done >&2")
	spec.OutputLimitBytes = 1000
	res = run(t, a, spec)
	if res.Stdout != strings.Repeat("x", 1000) || res.Stderr != "done\n" || !res.Truncated {
		t.Errorf("%d bytes, stderr %q, truncated %v", len(res.Stdout), res.Stderr, res.Truncated)
	}
	res = run(t, a, sh(`printf '\377\376'`))
	if res.Stdout != "" || res.StdoutBase64 != base64.StdEncoding.EncodeToString([]byte{0xff, 0xfe}) {
		t.Errorf("%+v", res)
	}
	spec = sh("printf 'aé'")
	spec.OutputLimitBytes = 2 // cuts the é in two
	if res = run(t, a, spec); res.Stdout != "a" || !res.Truncated {
		t.Errorf("%+v", res)
	}
}

func TestStdinToStdoutUnchanged(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	want := make([]byte, 1<<20)
	_, _ = rand.Read(want)
	res := run(t, a, api.ExecSpec{Argv: []string{"cat"}, StdinData: want, OutputLimitBytes: 2 << 20})
	if got, _ := base64.StdEncoding.DecodeString(res.StdoutBase64); !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back, not the same", len(got))
	}
	if res := run(t, a, api.ExecSpec{Argv: []string{"cat"}}); res.Stdout != "" || res.ExitCode != 0 {
		t.Errorf("without stdin: %+v", res)
	}
	// A command that does not want its stdin.
	if res := run(t, a, api.ExecSpec{Argv: []string{"true"}, StdinData: want}); res.ExitCode != 0 {
		t.Errorf("%+v", res)
	}
}

// stream is a command under way.
type stream struct {
	t    *testing.T
	conn net.Conn
	in   *frame.Reader
	out  *frame.Writer
}

func open(t *testing.T, a *agent, spec api.ExecSpec) *stream {
	t.Helper()
	conn, err := a.Exec(within(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	s := &stream{t, conn, frame.NewReader(conn), frame.NewWriter(conn)}
	s.control(api.Control{Type: api.ControlStart, Exec: &spec})
	return s
}

func (s *stream) control(c api.Control) {
	s.t.Helper()
	if err := s.out.Control(c); err != nil {
		s.t.Fatal(err)
	}
}

func tail(s string) string { return s[max(0, len(s)-200):] }

// until reads until stdout contains word.
func (s *stream) until(word string) string {
	s.t.Helper()
	var got strings.Builder
	for !strings.Contains(got.String(), word) {
		f, err := s.in.Read()
		if err != nil {
			s.t.Fatalf("%v; so far …%q", err, tail(got.String()))
		}
		if f.Channel == frame.Control {
			s.t.Fatalf("ended with %s; so far …%q", f.Payload, tail(got.String()))
		}
		got.Write(f.Payload)
	}
	return got.String()
}

// end reads to the exit.
func (s *stream) end() (api.Control, string) {
	s.t.Helper()
	var got strings.Builder
	for {
		f, err := s.in.Read()
		if err != nil {
			s.t.Fatalf("%v; so far …%q", err, tail(got.String()))
		}
		if f.Channel != frame.Control {
			got.Write(f.Payload)
			continue
		}
		c, err := f.Control()
		if err != nil {
			s.t.Fatal(err)
		}
		return c, got.String()
	}
}

func TestHalfCloseOfStdin(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	spec := sh("cat; echo after")
	spec.Stdin = true
	s := open(t, a, spec)
	if err := s.out.Write(frame.Stdin, []byte("before\n")); err != nil {
		t.Fatal(err)
	}
	s.until("before\n")
	s.control(api.Control{Type: api.ControlEOF})
	if c, out := s.end(); out != "after\n" || c.Type != api.ControlExit || c.ExitCode != 0 {
		t.Errorf("%q, %+v", out, c)
	}
}

func TestSignalsGoToTheProcessGroup(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	for _, sig := range []string{"USR1", "SIGUSR1", "10"} {
		s := open(t, a, sh(`trap 'echo got; exit 7' USR1; sh -c "trap 'echo child; exit' USR1; echo ready; while :; do sleep 0.05; done" & while :; do wait; done`))
		s.until("ready\n")
		s.control(api.Control{Type: api.ControlSignal, Signal: sig})
		c, out := s.end()
		if c.ExitCode != 7 || !strings.Contains(out, "got\n") {
			t.Errorf("%s: %+v, %q", sig, c, out)
		}
	}
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	spec := sh(`stty size; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.05; done`)
	spec.TTY, spec.Stdin, spec.Rows, spec.Cols = true, true, 33, 101
	s := open(t, a, spec)
	if out := s.until("ready\r\n"); !strings.Contains(out, "33 101\r\n") {
		t.Errorf("at the start: %q", out)
	}
	s.control(api.Control{Type: api.ControlResize, Rows: 44, Cols: 55})
	if c, out := s.end(); !strings.Contains(out, "44 55\r\n") || c.ExitCode != 3 {
		t.Errorf("after the resize: %q, %+v", out, c)
	}

	spec = sh(`test -t 0 && test -t 1 && test -t 2 && tty && echo "$TERM" && echo controlling > /dev/tty`)
	spec.TTY, spec.Stdin = true, true
	if c, out := open(t, a, spec).end(); c.ExitCode != 0 || !strings.Contains(out, "/dev/pts/") || !strings.Contains(out, "xterm-256color\r\ncontrolling\r\n") {
		t.Errorf("no terminal: %q, %+v", out, c)
	}

	s = open(t, a, api.ExecSpec{Argv: []string{"cat"}, TTY: true, Stdin: true})
	if err := s.out.Write(frame.Stdin, []byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	s.until("hello\r\nhello\r\n")                               // the terminal's echo, and cat's
	if err := s.out.Write(frame.Stdin, []byte{3}); err != nil { // ^C, through the terminal
		t.Fatal(err)
	}
	if c, _ := s.end(); c.Signal != "INT" || c.ExitCode != 130 {
		t.Errorf("after ^C: %+v", c)
	}
}

func TestEndOfStdinOnATerminal(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	s := open(t, a, api.ExecSpec{Argv: []string{"cat"}, TTY: true, Stdin: true})
	if err := s.out.Write(frame.Stdin, []byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	s.until("hello\r\nhello\r\n") // the terminal's echo, and cat's
	s.control(api.Control{Type: api.ControlEOF})
	if c, _ := s.end(); c.ExitCode != 0 {
		t.Errorf("%+v", c)
	}
}

func TestProxy(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	proxied := func(h guest.Hooks) (*stream, chan error) {
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		var ends [2]net.Conn
		for i, fd := range fds {
			f := os.NewFile(uintptr(fd), "client")
			if ends[i], err = net.FileConn(f); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
		t.Cleanup(func() { ends[0].Close() })
		done := make(chan error, 1)
		go func() { done <- a.Proxy(within(t), ends[1], h); ends[1].Close() }()
		return &stream{t, ends[0], frame.NewReader(ends[0]), frame.NewWriter(ends[0])}, done
	}

	var seen bytes.Buffer
	var ended api.Control
	s, done := proxied(guest.Hooks{
		Start:  func(spec *api.ExecSpec) error { spec.Env = append(spec.Env, "A=added"); return nil },
		Output: func(_ frame.Channel, p []byte) { seen.Write(p) },
		End:    func(c api.Control, _ error) { ended = c },
	})
	spec := sh(`echo $A; cat; exit 5`)
	spec.Stdin = true
	s.control(api.Control{Type: api.ControlStart, Exec: &spec})
	if err := s.out.Write(frame.Stdin, []byte("typed")); err != nil {
		t.Fatal(err)
	}
	s.control(api.Control{Type: api.ControlEOF})
	c, out := s.end()
	if err := <-done; err != nil || c.ExitCode != 5 || out != "added\ntyped" || seen.String() != out || ended.ExitCode != 5 {
		t.Errorf("%v, %+v, %q, seen %q, ended %+v", err, c, out, seen.String(), ended)
	}

	s, done = proxied(guest.Hooks{Start: func(*api.ExecSpec) error { return api.Errorf(api.CodeBusy, "not now") }})
	s.control(api.Control{Type: api.ControlStart, Exec: &spec})
	if c, _ := s.end(); c.Type != api.ControlError || c.Error.Code != api.CodeBusy {
		t.Errorf("%+v", c)
	}
	<-done

	// The client goes away while its stdin stands still.
	s, done = proxied(guest.Hooks{})
	spec = sh("echo $$; exec sleep 60")
	spec.Stdin = true
	s.control(api.Control{Type: api.ControlStart, Exec: &spec})
	pid := s.until("\n")
	_ = s.conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	buf := make([]byte, 64<<10)
	var err error
	for err == nil {
		err = s.out.Write(frame.Stdin, buf)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	s.conn.Close()
	await(t, "the command's end", gone(pid))
	if err := <-done; api.CodeOf(err) != api.CodeCancelled {
		t.Errorf("%v", err)
	}
}
