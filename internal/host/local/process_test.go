package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
	"banger/internal/loud"
)

// sleeper spawns a shell that reads a FIFO nobody writes to: it runs until it is ended.
func sleeper(t *testing.T, ps processes, c host.Command) host.Process {
	t.Helper()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	c.Path, c.Args = "sh", []string{"-c", `exec 9<>"$0"; read x <&9`, fifo}
	p, err := ps.Spawn(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ps.Signal(p, syscall.SIGKILL) })
	return p
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestSpawnWaitSignal(t *testing.T) {
	t.Parallel()
	ps := newProcesses()
	p := sleeper(t, ps, host.Command{OOMScoreAdj: 321})
	if !ps.Alive(p) {
		t.Fatal("not alive after Spawn")
	}
	if ps.Alive(host.Process{PID: p.PID, StartTime: p.StartTime + 1}) {
		t.Error("alive under another start time")
	}
	if got, ok := ps.Identify(p.PID); !ok || got != p {
		t.Errorf("Identify = %v, %v; want %v", got, ok, p)
	}
	if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.PID)); strings.TrimSpace(string(b)) != "321" {
		t.Errorf("oom_score_adj is %q", b)
	}
	// In this order: what one was given, the next one has not.
	for _, try := range []struct {
		c      host.Command
		policy uint32
		huge   string
	}{
		{host.Command{}, unix.SCHED_NORMAL, "1"},
		{host.Command{Batch: true}, unix.SCHED_BATCH, "1"},
		{host.Command{SmallPages: true}, unix.SCHED_NORMAL, "0"},
		{host.Command{}, unix.SCHED_NORMAL, "1"},
	} {
		p := sleeper(t, ps, try.c)
		if attr, err := unix.SchedGetAttr(p.PID, 0); err != nil || attr.Policy != try.policy {
			t.Errorf("%+v: policy %+v, %v, want %d", try.c, attr, err, try.policy)
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
		if err != nil || !strings.Contains(string(b), "\nTHP_enabled:\t"+try.huge+"\n") {
			t.Errorf("%+v: %v, %s, want THP_enabled %s", try.c, err, b, try.huge)
		}
	}
	if err := ps.SetOOMScore(p, 654); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.PID)); strings.TrimSpace(string(b)) != "654" {
		t.Errorf("oom_score_adj is %q after it was set anew", b)
	}
	if err := ps.SetOOMScore(host.Process{PID: p.PID, StartTime: p.StartTime + 1}, 7); err == nil {
		t.Error("oom_score_adj of a process that is no more was set")
	}
	if sid, _ := getsid(p.PID); sid != p.PID {
		t.Errorf("session %d, want one of its own (%d)", sid, p.PID)
	}
	if err := ps.Signal(host.Process{PID: p.PID, StartTime: p.StartTime + 1}, syscall.SIGKILL); err != nil {
		t.Errorf("signal to a reused pid: %v", err)
	}
	if _, ok := ps.ExitStatus(p); ok || !ps.Alive(p) {
		t.Fatal("a signal for another start time reached the process")
	}
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ps.Wait(short, p); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait with an ended context: %v", err)
	}
	if err := ps.Signal(p, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := ps.Wait(deadline(t), p); err != nil {
		t.Fatal(err)
	}
	if ps.Alive(p) {
		t.Error("alive after Wait")
	}
	if ws, ok := ps.ExitStatus(p); !ok || ws.Signal() != syscall.SIGTERM {
		t.Errorf("ExitStatus = %v, %v", ws, ok)
	}
	if err := ps.Signal(p, syscall.SIGTERM); err != nil {
		t.Errorf("signal to a process that is gone: %v", err)
	}
}

// Wait and Alive must work on a process that another daemon spawned: here, another
// instance of processes, so that the pidfd is what tells.
func TestWaitForAStranger(t *testing.T) {
	t.Parallel()
	mine, other := newProcesses(), newProcesses()
	p := sleeper(t, mine, host.Command{})
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := other.Wait(short, p); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Wait on a running process: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- other.Wait(deadline(t), p) }()
	if err := other.Signal(p, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if other.Alive(p) {
		t.Error("alive after Wait")
	}
}

func TestSpawnPassesFilesLogsAndSwitchesUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		loud.Skip(t, "switching the user needs root")
	}
	ps := newProcesses()
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	log := filepath.Join(dir, "log")
	p, err := ps.Spawn(host.Command{
		Path: "sh", Args: []string{"-c", `echo to the log >&2; cat /proc/self/status >&3; echo "env:$(env | cut -d= -f1 | sort | tr '\n' ' ')" >&3`},
		Files: []*os.File{w}, LogPath: log, UID: 12345, GID: 23456,
	})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	out := strings.ReplaceAll(buf.String(), "\t", " ")
	for _, want := range []string{"Uid: 12345 12345 12345 12345\n", "Gid: 23456 23456 23456 23456\n", "Groups:  \n", "CapEff: 0000000000000000\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	if strings.Contains(out, "BANGER_") || !strings.Contains(out, "env:HOME LANG ") {
		t.Errorf("environment: %s", out)
	}
	if err := ps.Wait(deadline(t), p); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(log)
	if err != nil || string(b) != "to the log\n" {
		t.Errorf("log = %q, %v", b, err)
	}
	if _, err := ps.Spawn(host.Command{Path: "true", UID: 12345}); err == nil {
		t.Error("a uid without a gid was taken")
	}
}

func TestLogMustBeAPlainFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(target, filepath.Join(dir, "hard")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "hard", "fifo"} {
		if _, err := newProcesses().Spawn(host.Command{Path: "true", LogPath: filepath.Join(dir, name)}); err == nil {
			t.Errorf("a log that is a %s was opened", name)
		}
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	ps := newProcesses()
	var out bytes.Buffer
	err := ps.Run(deadline(t), host.Command{Path: "cat", Stdin: strings.NewReader("hello"), Stdout: &out})
	if err != nil || out.String() != "hello" {
		t.Errorf("cat: %q, %v", out.String(), err)
	}
	err = ps.Run(deadline(t), host.Command{Path: "sh", Args: []string{"-c", "echo some reason >&2; exit 3"}})
	if err == nil || !strings.Contains(err.Error(), "some reason") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("failing command: %v", err)
	}
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		t.Error("the error carries an ExitCode method")
	}
}

func TestRunKillsTheWholeGroup(t *testing.T) {
	t.Parallel()
	ps := newProcesses()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	// The grandchild holds the pipe too: only when both are dead does the read end see EOF.
	go func() {
		done <- ps.Run(ctx, host.Command{Path: "sh", Args: []string{"-c", "sleep 1000 & echo up >&3; wait"}, Files: []*os.File{w}})
		w.Close()
	}()
	b := make([]byte, 3)
	if _, err := r.Read(b); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v", err)
	}
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(b); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a grandchild lives on: %d, %v", n, err)
	}
}

func TestLookPath(t *testing.T) {
	ps := newProcesses()
	t.Setenv("PATH", "/nowhere:relative")
	if _, err := ps.LookPath("qemu-system-x86_64"); err == nil {
		t.Error("found in an empty PATH")
	} else if e := api.AsError(err); e.Code != api.CodeMissing || e.Hint != "sudo apt-get install qemu-system-x86" {
		t.Errorf("error: %+v", e)
	}
	if _, err := os.Stat("/usr/sbin/chroot"); err == nil {
		if p, err := ps.LookPath("chroot"); err != nil || p != "/usr/sbin/chroot" {
			t.Errorf("chroot: %q, %v", p, err)
		}
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	line := "42 (a) b) S) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21 22"
	st, err := parseStat([]byte(line))
	if err != nil || st != (stat{state: 'R', cpuTicks: 11 + 12, start: 777, rssPages: 21}) {
		t.Errorf("%+v, %v", st, err)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) R", "1 (x) R a b c d e f g h i j k l m n o p q r s t u v"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q parsed", bad)
		}
	}
}

func TestUsageAndOwner(t *testing.T) {
	t.Parallel()
	ps := newProcesses()
	me, ok := ps.Identify(os.Getpid())
	if !ok {
		t.Fatal("cannot identify myself")
	}
	u, err := ps.Usage(me)
	if err != nil || u.RSSBytes < 1<<20 {
		t.Errorf("Usage = %+v, %v", u, err)
	}
	if _, err := ps.Usage(host.Process{PID: me.PID, StartTime: 1}); err == nil {
		t.Error("usage of a reused pid")
	}
	if uid, err := ps.Owner(me.PID); err != nil || uid != os.Geteuid() {
		t.Errorf("Owner = %d, %v", uid, err)
	}
	args, err := ps.CommandLine(me.PID)
	if err != nil || len(args) != len(os.Args) || args[0] != os.Args[0] {
		t.Errorf("CommandLine = %q, %v", args, err)
	}
	pids, err := ps.PIDs()
	found := false
	for _, pid := range pids {
		found = found || pid == me.PID
	}
	if err != nil || !found {
		t.Errorf("PIDs lacks %d: %v", me.PID, err)
	}
}

func getsid(pid int) (int, error) {
	sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(pid), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sid), nil
}
