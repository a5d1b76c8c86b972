package machine

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
)

// killAgent ends the agent in a guest, as nothing should. It is started again.
func (b *box) killAgent(vm string) {
	b.t.Helper()
	// The call loses its agent: whatever it returns.
	b.banger("exec", vm, "--", "sh", "-c", `for p in /proc/[0-9]*; do
		case "$(tr '\0' ' ' <$p/cmdline)" in @banger-agent*) kill -9 ${p#/proc/};; esac; done`)
	eventually(b.t, "the agent answers again", func() bool { return b.banger("exec", vm, "--", "true").code == 0 })
}

func (b *box) session(vm, name string) (s api.Session) {
	b.t.Helper()
	decode(b.t, b.must("vm", "session", "show", "--json", vm, name), &s)
	return s
}

// TestSession: what runs in a session outlives everybody but its guest.
func TestSession(t *testing.T) {
	t.Parallel()
	b := newBox(t, setting("session_log", "512K"))
	b.must("run", "-d", "--name", "x", "--net", "none")

	b.sub("survives the daemon and the agent", func(t *testing.T, b *box) { b.outlives("x") })

	b.sub("ends as its command does", func(t *testing.T, b *box) {
		for code, argv := range map[int][]string{
			0: {"true"}, 42: {"sh", "-c", "exit 42"}, 143: {"sh", "-c", "kill -TERM $$"}, 137: {"sh", "-c", "kill -KILL $$"},
		} {
			name := fmt.Sprintf("code%d", code)
			b.must(append([]string{"vm", "session", "start", "x", "--name", name, "--"}, argv...)...)
			same(t, name, b.banger("vm", "session", "wait", "--timeout", "3m", "x", name).code, code)
		}
		same(t, "signal", b.session("x", "code137").Signal, "KILL")
		b.must("vm", "session", "start", "x", "--name", "tree", "--", "sh", "-c", "setsid sleep 1000 & echo $! >/tmp/child; sleep 1000")
		eventually(t, "the child is there", func() bool { return b.banger("exec", "x", "--", "test", "-s", "/tmp/child").code == 0 })
		b.must("vm", "session", "kill", "x", "tree")
		same(t, "killed", b.banger("vm", "session", "wait", "--timeout", "3m", "x", "tree").code, 137)
		same(t, "its child", b.banger("exec", "x", "--", "sh", "-c", "kill -0 $(cat /tmp/child)").code, 1)
	})

	b.sub("logs are cut, and say so", func(t *testing.T, b *box) {
		// Lines of 16 bytes, 1.5 MiB of them.
		b.must("vm", "session", "start", "x", "--name", "much", "--", "awk", `BEGIN { for (i = 0; i < 98304; i++) printf "%015d\n", i }`)
		same(t, "exit code", b.banger("vm", "session", "wait", "--timeout", "5m", "x", "much").code, 0)
		s := b.session("x", "much")
		same(t, "written", s.StdoutBytes, 3<<19)
		if kept := s.StdoutBytes - s.StdoutCut; kept < 512<<10 || kept > 704<<10 {
			t.Errorf("%d bytes are kept", kept)
		}
		r := b.banger("vm", "session", "logs", "--stream", "stdout", "--tail", "-1", "x", "much")
		same(t, "first line", strings.SplitN(r.stdout, "\n", 2)[0], fmt.Sprintf("%015d", s.StdoutCut/16))
		if want := fmt.Sprintf("%d bytes of stdout are gone", s.StdoutCut); !strings.Contains(r.stderr, want) {
			t.Errorf("%q is not in %q", want, r.stderr)
		}
		same(t, "lines of a plain logs", strings.Count(b.banger("vm", "session", "logs", "x", "much").stdout, "\n"), 200)
		dir := api.SessionsDir + "/" + s.ID
		if cut := b.guest("x", "cat "+dir+"/stdout.cut"); !strings.Contains(cut, strconv.FormatInt(s.StdoutCut, 10)) {
			t.Errorf("in the guest it says %q", cut)
		}
		if kb, err := strconv.Atoi(b.guest("x", "du -k "+dir+"/stdout.log | cut -f1")); err != nil || kb > 768 {
			t.Errorf("it takes %d KiB of the work disk: %v", kb, err)
		}
	})

	b.sub("what is sent comes once, over the daemon's death", func(t *testing.T, b *box) { b.sendsOnce("x") })

	b.sub("is lost with its guest, and says why", func(t *testing.T, b *box) { b.lostWith("x") })
}

// sendsOnce holds that a large send outlives the daemon, and that nothing of it comes twice or is lost.
func (b *box) sendsOnce(vm string) {
	t := b.t
	// It takes little at a time until it is told that the daemon is killed no more.
	b.must("vm", "session", "start", vm, "--name", "big", "--stdin", "pipe", "--", "sh", "-c",
		`{ until test -e /tmp/fast; do dd bs=4k count=16 2>/dev/null; sleep .1; done; cat; } >/tmp/big`)
	data := make([]byte, 12<<20)
	for i := range data {
		data[i] = byte(rand.IntN(256))
	}
	file := filepath.Join(b.dir, "big")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	sent := make(chan result, 1)
	go func() { sent <- b.run(in, filepath.Join(b.bin, "banger"), "vm", "session", "send", "--eof", vm, "big") }()
	size := func() int {
		n, err := strconv.Atoi(b.guest(vm, "stat -c %s /tmp/big"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for had := -1; had < 512<<10; {
		before := had
		eventually(t, "more of it arrives", func() bool { had = size(); return had > before })
		b.killDaemon()
	}
	b.guest(vm, "touch /tmp/fast")
	if r := <-sent; r.code != 0 || r.stderr != "" {
		t.Errorf("send: %v", r)
	}
	same(t, "exit code", b.banger("vm", "session", "wait", "--timeout", "5m", vm, "big").code, 0)
	same(t, "what arrived", b.guest(vm, "sha256sum /tmp/big | cut -d' ' -f1"), fmt.Sprintf("%x", sha256.Sum256(data)))
	b.guest(vm, "rm /tmp/big")
}

// outlives holds that a session, who is attached to it, and who waits for it, survive the daemon's death and the agent's.
func (b *box) outlives(vm string) {
	t := b.t
	b.must("vm", "session", "start", vm, "--name", "work", "--stdin", "pipe", "--", "sh", "-c",
		`echo $$; while read l; do echo "got $l"; test "$l" = end && exit 7; done`)
	before := b.session(vm, "work")
	attached, seen := b.attaches(vm, "work")
	waited := make(chan result, 1)
	go func() { waited <- b.banger("vm", "session", "wait", vm, "work") }()
	b.awaitAttached(vm, "work", seen)
	b.fails(125, []string{"session work of VM " + vm + " is attached elsewhere"}, "vm", "session", "attach", vm, "work")
	b.must("vm", "session", "send", vm, "work", "one")
	b.killDaemon()
	b.must("vm", "session", "send", vm, "work", "two")
	b.killAgent(vm)
	b.must("vm", "session", "send", vm, "work", "three")
	now := b.session(vm, "work")
	same(t, "state", now.State, api.SessionRunning)
	same(t, "process", now.PID, before.PID)
	b.must("vm", "session", "send", vm, "work", "end")
	const said = "got one\ngot two\ngot three\ngot end\n"
	if !seen(time.Minute, said) {
		t.Error("who is attached has not seen the rest, or not all of it")
	}
	same(t, "exit code of attach", <-attached, 7)
	same(t, "exit code of wait", (<-waited).code, 7)
	logs := b.banger("vm", "session", "logs", vm, "work").stdout
	same(t, "logs", strings.ReplaceAll(logs, "got hello\n", ""), fmt.Sprintf("%d\n%s", now.PID, said))
}

// attaches is somebody who is attached to a session, and reads only when asked: seen reports whether a text comes within d,
// and drops what is before it. ended gets the exit code.
func (b *box) attaches(vm, session string) (ended <-chan int, seen func(d time.Duration, text string) bool) {
	t := b.t
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := b.command(t.Context(), filepath.Join(b.bin, "banger"), "vm", "session", "attach", vm, session)
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	code := make(chan int, 1)
	go func() {
		_ = cmd.Wait() // the code says it
		code <- cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = r.Close() })
	var text strings.Builder
	return code, func(d time.Duration, want string) bool {
		if err := r.SetReadDeadline(time.Now().Add(d)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4096)
		for {
			if _, rest, ok := strings.Cut(text.String(), want); ok {
				text.Reset()
				text.WriteString(rest)
				return true
			}
			n, err := r.Read(buf)
			text.Write(buf[:n])
			if err != nil && n == 0 {
				return false
			}
		}
	}
}

// TestSessionOnFullDisk: output for which there is no room is missing, and everybody is told; how the session ended is known all the same.
func TestSessionOnFullDisk(t *testing.T) {
	t.Parallel()
	b := newBox(t, setting("net", "none"))
	b.must("run", "-d", "--name", "x")
	for _, name := range []string{"goes-on", "ends"} {
		b.must("session", "start", "--name", name, "x", "--", "sh", "-c",
			`echo before; until test -e /run/full; do sleep .1; done; head -c 2000000 /dev/zero | tr '\0' y; touch /run/written-`+name+`
			until test -e /run/`+name+`; do sleep .1; done; echo after; exit 7`)
	}
	b.guest("x", `dd if=/dev/zero of=/root/full bs=64k 2>/dev/null; cat /dev/zero >/root/full2 2>/dev/null; touch /run/full
		until test -e /run/written-goes-on && test -e /run/written-ends; do sleep .1; done; touch /run/ends`)
	const missing = "output are missing here: no space left on device"
	same(t, "exit code", b.banger("session", "wait", "x", "ends").code, 7)
	s := b.session("x", "ends")
	if s.State != api.SessionExited || !strings.Contains(s.Error, "could not be kept: no space left on device") {
		t.Errorf("on a full disk: %+v", s)
	}
	b.guest("x", "rm /root/full*; touch /run/goes-on")
	same(t, "exit code", b.banger("session", "wait", "x", "goes-on").code, 7)
	if s := b.session("x", "goes-on"); !strings.Contains(s.Error, "could not be kept") {
		t.Errorf("%+v", s)
	}
	for _, name := range []string{"goes-on", "ends"} {
		log := b.must("session", "logs", "x", name)
		if !strings.HasPrefix(log, "before\n") || !strings.Contains(log, missing) || name == "goes-on" && !strings.HasSuffix(log, "]\nafter") {
			t.Errorf("%s: its log does not say that output is missing: %.100q … %q", name, log, log[max(0, len(log)-200):])
		}
	}
}

// lostWith holds that a restart of the guest ends what runs in it, with a reason.
func (b *box) lostWith(vm string) {
	t := b.t
	b.must("vm", "session", "start", vm, "--name", "long", "--", "sh", "-c", "echo before; sleep 10000")
	eventually(t, "it has begun", func() bool { return b.must("vm", "session", "logs", vm, "long") == "before" })
	b.must("restart", vm)
	s := b.session(vm, "long")
	same(t, "state", s.State, api.SessionFailed)
	same(t, "reason", s.Error, "the guest was stopped")
	same(t, "status in the guest", b.guest(vm, "cat "+api.SessionsDir+"/"+s.ID+"/status"), "failed")
	same(t, "its output", b.must("vm", "session", "logs", vm, "long"), "before")
	b.must("vm", "session", "delete", vm, "long")
	b.must("vm", "session", "start", vm, "--name", "long", "--", "sh", "-c", "echo again; sync; sleep 10000")
	b.guest(vm, "sync")
	b.must("kill", vm)
	same(t, "reason", b.session(vm, "long").Error, "its VM was stopped")
	b.must("start", vm)
	same(t, "reason", b.session(vm, "long").Error, "the guest was restarted")
}

// TestSessionsSystemd: the same in a guest with an init of its own.
func TestSessionsSystemd(t *testing.T) {
	t.Parallel()
	b := newBox(t, setting("image", "debian"), setting("memory", "512M"))
	b.must("run", "-d", "--name", "x", "--net", "none")
	b.sub("survives the daemon and the agent", func(t *testing.T, b *box) { b.outlives("x") })
	b.sub("is lost with its guest, and says why", func(t *testing.T, b *box) { b.lostWith("x") })
}

// TestSessionsMany: a hundred at once in a guest of 256 MiB.
func TestSessionsMany(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x", "--net", "none", "--memory", "256M")
	const n = 100
	for i := range n {
		b.must("vm", "session", "start", "x", "--name", fmt.Sprintf("s%d", i), "--stdin", "pipe", "--", "cat")
	}
	t.Logf("%s", b.guest("x", "grep -E 'MemAvailable|MemTotal|AnonPages|Slab|KernelStack|PageTables' /proc/meminfo | tr -s '\n ' ' '"))
	var list []api.Session
	decode(t, b.must("vm", "session", "list", "--json", "x"), &list)
	running := 0
	for _, s := range list {
		if s.State == api.SessionRunning {
			running++
		}
	}
	same(t, "sessions that run", running, n)
	for _, i := range []int{0, 50, n - 1} {
		name := fmt.Sprintf("s%d", i)
		b.must("vm", "session", "send", "--eof", "x", name, "I am", name)
		same(t, name, b.banger("vm", "session", "wait", "--timeout", "3m", "x", name).code, 0)
		same(t, name, b.must("vm", "session", "logs", "x", name), "I am "+name)
	}
	if kills := b.guest("x", "dmesg | grep -c 'Out of memory' || true"); kills != "0" {
		t.Errorf("the guest ran out of memory %s times", kills)
	}
}

// TestSessionFloods: beside a session that writes as fast as it can, with somebody attached who does not read, the VM answers
// and the daemon does not grow.
func TestSessionFloods(t *testing.T) {
	t.Parallel()
	newBox(t).flood(10 * time.Second)
}

// TestLongSessionFloods is TestSessionFloods for as long as the issue says.
func TestLongSessionFloods(t *testing.T) { newBox(t).flood(time.Minute) }

func (b *box) flood(d time.Duration) {
	t := b.t
	b.must("run", "-d", "--name", "x", "--net", "none")
	b.must("vm", "session", "start", "x", "--name", "flood", "--stdin", "pipe", "--", "sh", "-c", "while read l; do echo got $l; test $l = go && exec yes 0123456789012345678901234567890123456789; done")
	_, seen := b.attaches("x", "flood") // and reads no more after this
	b.awaitAttached("x", "flood", seen)
	b.guest("x", "true") // the first one is slower
	// How long an exec takes of itself, on this machine at this hour.
	quiet := time.Duration(1 << 62)
	for range 5 {
		begin := time.Now()
		b.guest("x", "true")
		quiet = min(quiet, time.Since(begin))
	}
	size := b.daemonMemory()
	b.must("vm", "session", "send", "x", "flood", "go")
	var worst time.Duration
	calls := 0
	for begin := time.Now(); time.Since(begin) < d; calls++ {
		asked := time.Now()
		b.guest("x", "true")
		worst = max(worst, time.Since(asked))
	}
	grown := b.daemonMemory() - size
	s := b.session("x", "flood")
	t.Logf("%d MB written in %s; exec took %s alone and at most %s of %d beside it; the daemon grew by %d KB", s.StdoutBytes/1e6, d, quiet, worst, calls, grown>>10)
	if s.StdoutBytes < 8<<20 {
		t.Errorf("it has written %d bytes only", s.StdoutBytes)
	}
	if worst > max(time.Second, 5*quiet) {
		t.Errorf("an exec took %s, alone %s", worst, quiet)
	}
	if grown > 16<<20 {
		t.Errorf("the daemon has grown by %d bytes", grown)
	}
	b.must("vm", "session", "kill", "x", "flood")
}

// awaitAttached sends to a session until who is attached to it sees the answer.
func (b *box) awaitAttached(vm, session string, seen func(time.Duration, string) bool) {
	b.t.Helper()
	eventually(b.t, "who is attached sees something", func() bool {
		b.must("vm", "session", "send", vm, session, "hello")
		return seen(100*time.Millisecond, "got hello\n")
	})
}

// daemonMemory is the daemon's own memory in bytes, without what it shares.
func (b *box) daemonMemory() int64 {
	b.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.info().PID))
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "RssAnon:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				b.t.Fatal(err)
			}
			return kb << 10
		}
	}
	b.t.Fatal("the daemon's memory is not known")
	return 0
}

// TestSessionTerminal: attach and detach in a real terminal.
func TestSessionTerminal(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	needProgram(t, "tmux")
	b.must("run", "-d", "--name", "x", "--net", "none")
	b.must("vm", "session", "start", "-t", "x", "--name", "term", "--", "sh", "-c",
		`i=0; while [ $i -lt 40 ]; do echo "line $i"; i=$((i+1)); done; exec sh`)
	socket := filepath.Join(b.dir, "tmux")
	screen := ""
	tmux := func(args ...string) string {
		t.Helper()
		r := b.run(nil, "tmux", append([]string{"-f", "/dev/null", "-S", socket}, args...)...)
		if r.code != 0 {
			t.Fatalf("tmux %v: %v", args, r)
		}
		return r.stdout
	}
	defer func() {
		if t.Failed() {
			t.Logf("last on the screen:\n%s", screen)
		}
	}()
	tmux("new-session", "-d", "-x", "90", "-y", "24", "sh")
	defer tmux("kill-server")
	shows := func(text string) {
		t.Helper()
		eventually(t, fmt.Sprintf("the screen shows %q", text), func() bool {
			screen = tmux("capture-pane", "-p")
			return strings.Contains(screen, text)
		})
	}
	keys := func(keys ...string) { t.Helper(); tmux(append([]string{"send-keys"}, keys...)...) }

	keys("PS1='outer> '; banger vm session attach x term; echo code $?", "Enter")
	shows("line 39")
	keys("stty size; PS1='inner> '", "Enter")
	shows("24 90")
	tmux("resize-window", "-x", "70", "-y", "20")
	// The size goes its own way: it may come behind what is typed.
	keys("until [ \"$(stty size)\" = '20 70' ]; do sleep 0.1; done; echo size $((6+1))", "Enter")
	shows("size 7")
	keys("clear; echo first $((0+1))", "Enter")
	shows("first 1")
	keys("C-p", "C-q")
	shows("detached from term")
	shows("code 0")
	keys("clear; echo out $((1+1)) of it", "Enter")
	shows("out 2 of it")
	keys("clear; banger vm session attach x term; echo code $?", "Enter")
	shows("first 1")
	keys("clear; echo in $((8+1)) again", "Enter")
	shows("in 9 again")
	// Ctrl-C is the command's.
	keys("sh -c 'echo sleeping $((7+1)); exec sleep 1000'", "Enter") // the one who says it is the one who sleeps
	shows("sleeping 8")
	keys("C-c")
	keys("echo still $((1+1)) here", "Enter")
	shows("still 2 here")
	b.killDaemon()
	keys("echo over $((2+2)) it", "Enter")
	shows("over 4 it")
	b.typesOver("x", keys)
	keys("exit 5", "Enter")
	shows("code 5")
	keys("stty -a | grep -o '.echo\\b'; stty sane; echo its own $((3+3))", "Enter")
	shows("its own 6")
}

// typesOver holds that what is typed comes to the command, each key once, while the daemon is killed again and again.
func (b *box) typesOver(vm string, keys func(...string)) {
	t := b.t
	keys("cat >/tmp/typed", "Enter")
	var typed strings.Builder
	lines := 0
	some := func() {
		for range 1 + rand.IntN(8) {
			line := fmt.Sprintf("line %d of what is typed", lines)
			keys("-l", line)
			keys("Enter")
			typed.WriteString(line + "\n")
			lines++
		}
	}
	for range 10 {
		daemon := b.info().PID // there is one again, and banger may be attached already, or just about to be
		some()
		if err := syscall.Kill(daemon, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		some()
		eventually(t, "bangerd is dead", func() bool { return !runs(daemon) })
	}
	keys("C-d")
	got := ""
	eventually(t, "all that was typed has arrived", func() bool {
		// A terminal types, too: where its cursor is, which the shell in the guest had asked for.
		got = regexp.MustCompile("\x1b\\[[0-9;]*R").ReplaceAllString(b.guest(vm, "cat /tmp/typed")+"\n", "")
		return len(got) >= typed.Len()
	})
	t.Logf("%d lines typed over ten deaths of the daemon", lines)
	if got != typed.String() {
		have := strings.Split(got, "\n")
		for i, want := range strings.Split(typed.String(), "\n") {
			if i >= len(have) || have[i] != want {
				t.Fatalf("the first line that is not as it was typed is %q: %q", want, have[min(i, len(have)-1)])
			}
		}
		t.Error("more has arrived than was typed")
	}
}

// TestSessionsOfFork: a fork takes the sessions along, each then goes its own way, and the records know both.
func TestSessionsOfFork(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.must("run", "-d", "--name", "x", "--net", "none")
	b.must("vm", "session", "start", "x", "--name", "work", "--stdin", "pipe", "--", "sh", "-c", `while read l; do echo "got $l"; test "$l" = end && exit 7; done`)
	b.must("vm", "session", "send", "x", "work", "both")
	_, seen := b.attaches("x", "work")
	b.awaitAttached("x", "work", seen)
	b.must("fork", "x", "--name", "y")
	fork := b.session("y", "work")
	same(t, "state in the fork", fork.State, api.SessionRunning)
	same(t, "id in the fork", fork.ID, b.session("x", "work").ID)
	b.must("vm", "session", "send", "y", "work", "end")
	same(t, "exit code in the fork", b.banger("vm", "session", "wait", "--timeout", "3m", "y", "work").code, 7)
	same(t, "the source's", b.session("x", "work").State, api.SessionRunning)
	if logs := b.must("vm", "session", "logs", "y", "work"); !strings.HasPrefix(logs, "got both\n") || !strings.HasSuffix(logs, "got end") {
		t.Errorf("the fork's log is %q", logs)
	}
	b.must("vm", "session", "send", "x", "work", "mine")
	if !seen(time.Minute, "got mine\n") {
		t.Error("who is attached to the source's has lost it")
	}
	// One that was never looked at, and is stopped: its records are those of its source.
	b.must("fork", "x", "--name", "z")
	eventually(t, "the fork's records are there", func() bool { return b.banger("vm", "session", "show", "z", "work").code == 0 })
	b.must("kill", "z")
	same(t, "in the stopped fork", b.session("z", "work").Error, "its VM was stopped")
	b.must("suspend", "x")
	same(t, "in the suspended source", b.session("x", "work").State, api.SessionRunning)
	b.must("start", "x")
	b.must("vm", "session", "send", "x", "work", "awake")
	b.must("vm", "session", "send", "x", "work", "end")
	same(t, "exit code", b.banger("vm", "session", "wait", "--timeout", "3m", "x", "work").code, 7)
}
