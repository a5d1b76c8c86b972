package guest_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/internal/agent/serve"
	"banger/internal/frame"
	"banger/internal/guest"
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
		t.Skip("switching users takes root")
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

// lines writes n numbered lines.
const lines = `i=0; while [ $i -lt %d ]; do echo "line $i"; i=$((i+1)); done`

func TestBackgroundChildHoldsStdout(t *testing.T) {
	t.Parallel()
	for _, tty := range []bool{false, true} {
		a := start(t, nil)
		mark := filepath.Join(t.TempDir(), "mark")
		// The child waits for the call to have returned, writes into the pipe, and lives on.
		child := fmt.Sprintf(`(trap '' HUP; while [ -d %[2]s ] && [ ! -e %[1]s.go ]; do sleep 0.02; done; i=0; while [ $i -lt 20000 ]; do echo filling; i=$((i+1)); done 2>/dev/null; echo survived > %[1]s) &`, mark, filepath.Dir(mark))
		spec := sh(child + fmt.Sprintf(lines, 5000))
		spec.TTY = tty
		s := open(t, a, spec)
		began := time.Now()
		c, out := s.end()
		if c.ExitCode != 0 || time.Since(began) > 15*time.Second {
			t.Errorf("tty %v: %+v after %v", tty, c, time.Since(began))
		}
		out = strings.ReplaceAll(out, "\r\n", "\n")
		if n := strings.Count(out, "line "); n != 5000 || !strings.HasSuffix(out, "line 4999\n") {
			t.Errorf("tty %v: %d of the command's own 5000 lines came", tty, n)
		}
		if err := os.WriteFile(mark+".go", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if !tty { // a terminal hangs up, and writing to it fails; a pipe must not
			await(t, "the child to live on", func() bool { b, _ := os.ReadFile(mark); return string(b) == "survived\n" })
		}
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// stubborn starts a grandchild in the background that ignores all it can, and prints its pid.
const stubborn = `sh -c 'trap "" TERM HUP INT; echo $$; while :; do sleep 0.1; done' &
`

func gone(pid string) func() bool {
	_, err := strconv.Atoi(strings.TrimSpace(pid))
	return func() bool {
		stat, readErr := os.ReadFile("/proc/" + strings.TrimSpace(pid) + "/stat")
		// A zombie has ended; whose child it is may not care to look.
		return err == nil && (readErr != nil || strings.Contains(string(stat), ") Z "))
	}
}

func cgroups(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{"none": ""}
	for _, top := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(top + "/cgroup.procs"); err != nil {
			continue
		}
		if _, err := os.Stat(top + "/cgroup.controllers"); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(top, "banger-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() {
			await(t, "the cgroup to be empty", func() bool {
				subs, _ := filepath.Glob(dir + "/exec-*")
				for _, s := range subs {
					_ = os.Remove(s)
				}
				return os.Remove(dir) == nil
			})
		})
		out["v2"] = dir
		return out
	}
	return out
}

func TestTimeoutKillsGrandchildren(t *testing.T) {
	t.Parallel()
	for name, dir := range cgroups(t) {
		t.Run(name, func(t *testing.T) {
			a := start(t, func(o *serve.Options) { o.Cgroup = dir })
			for _, script := range []string{
				stubborn + "sleep 60",                        // the leader ends at TERM, the grandchild does not
				stubborn + "trap '' TERM; sleep 60",          // nor does the leader
				"setsid " + stubborn + "sleep 0.3; sleep 60", // it has left the session
			} {
				spec := sh(script)
				spec.TimeoutMS = 500
				res := run(t, a, spec)
				if res.ExitCode != 124 || !res.TimedOut {
					t.Errorf("%q: %+v", script, res)
				}
				if pid := res.Stdout; pid == "" || !gone(pid)() {
					t.Errorf("%q: process %q lives on", script, pid)
				}
			}
			// A command that ends when asked is not waited for.
			spec := sh("sleep 60")
			spec.TimeoutMS = 100
			if res := run(t, a, spec); res.ExitCode != 124 || res.DurationMS > 1500 {
				t.Errorf("%+v", res)
			}
		})
	}
}

func TestDisconnectCancels(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	for _, tty := range []bool{false, true} {
		spec := sh(stubborn + "trap '' TERM HUP; while :; do sleep 0.1; done")
		spec.TTY = tty
		s := open(t, a, spec)
		pid := s.until("\n")
		s.conn.Close()
		await(t, "the grandchild's end", gone(pid))
	}
}

func TestDisconnectCancelsWhileStdinStandsStill(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	spec := sh("echo $$; exec sleep 60")
	spec.Stdin = true
	s := open(t, a, spec)
	pid := s.until("\n")
	full := make(chan struct{})
	go func() {
		defer close(full)
		buf := make([]byte, 64<<10)
		for s.out.Write(frame.Stdin, buf) == nil {
		}
	}()
	select {
	case <-full:
		t.Fatal("nothing held the writer up")
	case <-time.After(300 * time.Millisecond): // by now every buffer on the way is full
	}
	s.conn.Close()
	await(t, "the command's end", gone(pid))
	<-full
}

func TestStalledReaderStallsOnlyItself(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	s := open(t, a, api.ExecSpec{Argv: []string{"cat", "/dev/zero"}})
	if _, err := s.in.Read(); err != nil { // and nothing after it
		t.Fatal(err)
	}
	if res := run(t, a, sh("head -c 5000000 /dev/zero")); res.ExitCode != 0 || !res.Truncated {
		t.Errorf("%d %v", res.ExitCode, res.Truncated)
	}
	s.conn.Close()
}

func TestContextCancelsExecWait(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	file := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := a.ExecWait(ctx, sh("echo $$ > "+file+".new; mv "+file+".new "+file+"; exec sleep 60"))
		done <- err
	}()
	var pid []byte
	await(t, "the command to start", func() bool { pid, _ = os.ReadFile(file); return len(pid) > 0 })
	cancel()
	if err := <-done; api.CodeOf(err) != api.CodeCancelled {
		t.Errorf("%v", err)
	}
	await(t, "the command's end", gone(string(pid)))
}

func TestAgentThatDies(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	done := make(chan error, 1)
	go func() { _, err := a.ExecWait(within(t), sh("sleep 60")); done <- err }()
	await(t, "the call", func() bool { return a.session.Streams() > 0 })
	a.session.Close()
	if err := <-done; api.CodeOf(err) != api.CodeNotReady {
		t.Errorf("%v", err)
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

func TestBadFrames(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	for name, send := range map[string][]byte{
		"too long":   {1, 0, 1, 0, 1},
		"no channel": {9, 0, 0, 0, 0},
		"no start":   {4, 0, 0, 0, 14, '{', '"', 't', 'y', 'p', 'e', '"', ':', '"', 'e', 'o', 'f', '"', '}'},
		"no JSON":    {4, 0, 0, 0, 1, '{'},
		"stdin":      {1, 0, 0, 0, 1, 'x'},
	} {
		conn, err := a.Exec(within(t))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Write(send); err != nil {
			t.Fatal(err)
		}
		f, err := frame.NewReader(conn).Read()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if c, _ := f.Control(); c.Type != api.ControlError || c.Error.Code != api.CodeInvalid {
			t.Errorf("%s: %s", name, f.Payload)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
	}
}
