package guest_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/guest"
)

func startSession(t *testing.T, a *agent, id string, spec api.ExecSpec) agentapi.Session {
	t.Helper()
	s, err := a.StartSession(within(t), agentapi.SessionStart{ID: id, Exec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func readLog(t *testing.T, a *agent, id, stream string, offset int64, follow bool) (string, int64) {
	t.Helper()
	r, start, err := a.SessionLog(within(t), id, stream, guest.LogFrom{Offset: offset}, follow)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), start
}

func TestSession(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	s := startSession(t, a, "main", sh("echo out; echo err >&2; exit 42"))
	if s.ID != "main" || s.PID == 0 || s.StartedAt.IsZero() {
		t.Errorf("%+v", s)
	}
	s, err := a.WaitSession(within(t), "main")
	if err != nil || s.State != api.SessionExited || s.ExitCode != 42 || s.EndedAt == nil || s.StdoutBytes != 4 || s.StderrBytes != 4 {
		t.Errorf("%+v, %v", s, err)
	}
	if out, start := readLog(t, a, "main", "stdout", 1, false); out != "ut\n" || start != 1 {
		t.Errorf("%q from %d", out, start)
	}
	if out, _ := readLog(t, a, "main", "stderr", 0, true); out != "err\n" {
		t.Errorf("%q", out)
	}
	if _, err := a.StartSession(within(t), agentapi.SessionStart{ID: "main", Exec: sh("true")}); api.CodeOf(err) != api.CodeExists {
		t.Errorf("a second one of the same id: %v", err)
	}
	if err := a.SignalSession(within(t), "main", "TERM"); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("a signal after the end: %v", err)
	}
	if err := a.DeleteSession(within(t), "main"); err != nil {
		t.Error(err)
	}
	if _, err := a.Session(within(t), "main"); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("after delete: %v", err)
	}
}

func TestSessionsThatCannotStart(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	s := startSession(t, a, "none", api.ExecSpec{Argv: []string{"no-such-program"}})
	if s.State != api.SessionFailed || s.ExitCode != 127 || s.Error == nil || s.EndedAt == nil {
		t.Errorf("%+v", s)
	}
	if out, _ := readLog(t, a, "none", "stderr", 0, true); !strings.Contains(out, "no-such-program") {
		t.Errorf("%q", out)
	}
	s = startSession(t, a, "user", api.ExecSpec{Argv: []string{"true"}, User: "no-such-user"})
	if s.State != api.SessionFailed || s.Error == nil || s.Error.Code != api.CodeInvalid {
		t.Errorf("%+v", s)
	}
	for _, id := range []string{"", "..", "a/b", "A", strings.Repeat("x", 64)} {
		if _, err := a.StartSession(within(t), agentapi.SessionStart{ID: id, Exec: sh("true")}); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

func TestSessionIsFoundByTheNextAgent(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	spec := sh(`trap 'echo "$SECRET" | wc -c; exit 9' TERM; echo ready; while :; do sleep 0.05; done`)
	spec.Env = []string{"SECRET=never-on-disk"}
	startSession(t, a, "main", spec)
	log, _, err := a.SessionLog(within(t), "main", "stdout", guest.LogFrom{}, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(log, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	a.session.Close() // the agent dies
	if _, err := io.ReadAll(log); err == nil {
		t.Error("a log that was cut off looks whole")
	}
	log.Close()

	a.connect(t)
	s, err := a.Session(within(t), "main")
	if err != nil || s.State != api.SessionRunning || s.StdoutBytes != 6 {
		t.Fatalf("%+v, %v", s, err)
	}
	_ = filepath.WalkDir(a.o.SessionDir, func(path string, d os.DirEntry, _ error) error {
		if b, _ := os.ReadFile(path); strings.Contains(string(b), "never-on-disk") {
			t.Errorf("the environment is in %s", path)
		}
		return nil
	})
	if err := a.SignalSession(within(t), "main", "SIGTERM"); err != nil {
		t.Fatal(err)
	}
	if out, start := readLog(t, a, "main", "stdout", 6, true); out != "14\n" || start != 6 {
		t.Errorf("%q from %d", out, start)
	}
	if s, err := a.WaitSession(within(t), "main"); err != nil || s.ExitCode != 9 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestSessionTimeout(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	spec := sh(stubborn + "sleep 60")
	spec.TimeoutMS = 300
	startSession(t, a, "main", spec)
	pid, _ := readLog(t, a, "main", "stdout", 0, true)
	s, err := a.WaitSession(within(t), "main")
	if err != nil || s.ExitCode != 124 || !s.TimedOut || s.State != api.SessionExited {
		t.Errorf("%+v, %v", s, err)
	}
	if !gone(pid)() {
		t.Errorf("%q lives on", pid)
	}
}

func TestSessionWhoseHolderIsKilled(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	s := startSession(t, a, "main", sh("echo $PPID; exec sleep 60"))
	t.Cleanup(func() { _ = syscall.Kill(-s.PID, syscall.SIGKILL) })
	log, _, err := a.SessionLog(within(t), "main", "stdout", guest.LogFrom{}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	buf := make([]byte, 32)
	n, err := log.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	holder, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(holder, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(log); err != nil { // ends, rather than waiting for ever
		t.Error(err)
	}
	if s, err := a.Session(within(t), "main"); err != nil || s.State != api.SessionFailed || s.Error == nil {
		t.Errorf("%+v, %v", s, err)
	}
	await(t, "the command to end with it", gone(strconv.Itoa(s.PID)))
}

func TestSessionWithABackgroundChild(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	mark := filepath.Join(t.TempDir(), "mark")
	startSession(t, a, "main", sh("(while [ ! -e "+mark+".go ]; do sleep 0.02; done; echo x; echo y; echo survived > "+mark+") & echo own"))
	s, err := a.WaitSession(within(t), "main")
	if err != nil || s.ExitCode != 0 || s.State != api.SessionExited {
		t.Errorf("%+v, %v", s, err)
	}
	if out, _ := readLog(t, a, "main", "stdout", 0, true); out != "own\n" {
		t.Errorf("%q", out)
	}
	if err := os.WriteFile(mark+".go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "the child to live on", func() bool { b, _ := os.ReadFile(mark); return string(b) == "survived\n" })
}

func TestSessionLogIsBoundedAndKeepsItsOffsets(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	const total = 24_000_000 // of lines of 16 bytes
	startSession(t, a, "main", sh("seq -f '%015.0f' 0 1499999"))
	s, err := a.WaitSession(within(t), "main")
	if err != nil || s.StdoutBytes != total {
		t.Fatalf("%+v, %v", s, err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(a.o.SessionDir, "main", "stdout.log"), &st); err != nil {
		t.Fatal(err)
	}
	if kept := st.Blocks * 512; kept > 18<<20 || kept < 16<<20 {
		t.Errorf("%d bytes are kept", kept)
	}
	out, from := readLog(t, a, "main", "stdout", 0, false)
	if from == 0 || from%16 != 0 || int64(len(out)) != total-from {
		t.Fatalf("%d bytes from %d", len(out), from)
	}
	if n, err := strconv.ParseInt(out[:15], 10, 64); err != nil || n != from/16 {
		t.Errorf("at offset %d stands %q", from, out[:16])
	}
	if out, from := readLog(t, a, "main", "stdout", total-16, false); from != total-16 || out != "000000001499999\n" {
		t.Errorf("%q from %d", out, from)
	}
}

func TestFollowSeesEverything(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	startSession(t, a, "main", sh(`i=0; while [ $i -lt 200 ]; do echo $i; i=$((i+1)); [ $((i % 50)) = 0 ] && sleep 0.05; done`))
	out, _ := readLog(t, a, "main", "stdout", 0, true)
	if n := strings.Count(out, "\n"); n != 200 || !strings.HasSuffix(out, "\n199\n") {
		t.Errorf("%d lines", n)
	}
	// A follower who leaves takes nothing with him.
	startSession(t, a, "other", sh("sleep 60"))
	log, _, err := a.SessionLog(within(t), "other", "stdout", guest.LogFrom{}, true)
	if err != nil {
		t.Fatal(err)
	}
	go func() { time.Sleep(50 * time.Millisecond); log.Close() }()
	if _, err := io.ReadAll(log); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	if err := a.SignalSession(within(t), "other", "KILL"); err != nil {
		t.Fatal(err)
	}
	if s, err := a.WaitSession(within(t), "other"); err != nil || s.Signal != "KILL" || s.ExitCode != 137 {
		t.Errorf("%+v, %v", s, err)
	}
}
