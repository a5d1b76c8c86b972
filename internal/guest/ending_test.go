package guest_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/internal/agent/serve"
	"banger/internal/frame"
)

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
