package scripts

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"

	"banger/api"
)

// retryFor bounds `retry`, and every command on a terminal.
const retryFor = 30 * time.Second

// commands are what the scripts have beyond testscript's own.
func commands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"exits":      cmdExits,
		"retry":      cmdRetry,
		"tty":        cmdTTY,
		"talk":       cmdTalk,
		"signal":     cmdSignal,
		"tinydisk":   cmdTinyDisk,
		"killdaemon": cmdKillDaemon,
		"stopguest":  cmdStopGuest,
		"forward":    cmdForward,
		"pooled":     cmdPooled,
	}
}

// condition answers [root] (testscript has a condition of that name on some systems only).
func condition(name string) (bool, error) {
	if name == "isroot" {
		return os.Geteuid() == 0, nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// exits CODE PROGRAM ARGS...: the program ends with exactly this code.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := codeOf(ts, ts.Exec(args[1], args[2:]...)); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func codeOf(ts *testscript.TestScript, err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &exit):
		ts.Fatalf("cannot run it: %v", err)
	case exit.ExitCode() < 0:
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok {
			return 128 + int(ws.Signal())
		}
	}
	return exit.ExitCode()
}

// [!] retry PROGRAM ARGS...: the program succeeds (or fails) at last. For what no command of banger can wait for.
func cmdRetry(ts *testscript.TestScript, neg bool, args []string) {
	deadline := time.Now().Add(retryFor)
	for {
		if err := ts.Exec(args[0], args[1:]...); (err == nil) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not within %s", retryFor)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// pooled N returns when N clones wait in the pool.
func cmdPooled(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: pooled N")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	for deadline := time.Now().Add(retryFor); ; time.Sleep(20 * time.Millisecond) {
		ts.Check(ts.Exec("banger", "info", "--json"))
		var info api.Info
		ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &info))
		if info.PoolReady == want {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%d clones in the pool after %s, want %d", info.PoolReady, retryFor, want)
		}
	}
}

// signal SIG PIDFILE sends a signal to the process whose id is in the file; testscript's kill knows two only.
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: signal SIG PIDFILE")
	}
	ts.Check(ts.Exec("kill", "-"+args[0], strings.TrimSpace(ts.ReadFile(args[1]))))
}

// killdaemon ends the script's daemon as a crash would, and returns when it is gone.
func cmdKillDaemon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 0 {
		ts.Fatalf("usage: killdaemon")
	}
	pid := pidOf(ts, `"pid": *([0-9]+)`, "daemon", "status", "--json")
	ts.Check(syscall.Kill(pid, syscall.SIGKILL))
	for deadline := time.Now().Add(retryFor); syscall.Kill(pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("daemon %d is not gone", pid)
		}
	}
}

// stopguest VM: the VM's VMM stands still from now on.
func cmdStopGuest(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: stopguest VM")
	}
	ts.Check(ts.Exec("banger", "show", "--json", args[0]))
	dir := regexp.MustCompile(`"vm_dir": "([^"]+)"`).FindStringSubmatch(ts.ReadFile("stdout"))
	if dir == nil {
		ts.Fatalf("no vm_dir")
	}
	var handles struct {
		VMM struct {
			PID int `json:"pid"`
		} `json:"vmm"`
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(filepath.Join(dir[1], "handles.json"))), &handles))
	if handles.VMM.PID <= 1 {
		ts.Fatalf("no VMM in handles.json")
	}
	ts.Check(syscall.Kill(handles.VMM.PID, syscall.SIGSTOP))
}

// forward VM PORT: a connection through port-forward reaches the guest's echo, and carries the end of each direction.
func cmdForward(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: forward VM PORT")
	}
	cmd := exec.Command("banger", "port-forward", args[0], "0:"+args[1])
	cmd.Env = environ(ts)
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	ts.Check(err)
	address, _, ok := strings.Cut(line, " -> ")
	if !ok {
		ts.Fatalf("port-forward says %q", line)
	}
	host, _, err := net.SplitHostPort(address)
	ts.Check(err)
	if host != "127.0.0.1" {
		ts.Fatalf("port-forward listens on %s", address)
	}
	conn, err := net.Dial("tcp", address)
	ts.Check(err)
	defer conn.Close()
	_, err = conn.Write([]byte("over there"))
	ts.Check(err)
	ts.Check(conn.(*net.TCPConn).CloseWrite())
	ts.Check(conn.SetReadDeadline(time.Now().Add(retryFor)))
	answer, err := io.ReadAll(conn)
	ts.Check(err)
	if string(answer) != "OVER THERE" {
		ts.Fatalf("the guest answered %q", answer)
	}
	ts.Check(cmd.Process.Signal(os.Interrupt))
	if got := codeOf(ts, cmd.Wait()); got != 130 {
		ts.Fatalf("port-forward ended with %d", got)
	}
}

// listen PORT is a program for guests: it answers each connection in capitals once that has been said to its end.
func listen() {
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		go func() {
			defer conn.Close()
			if said, err := io.ReadAll(conn); err == nil {
				_, _ = conn.Write(bytes.ToUpper(said)) // a caller that has gone
			}
		}()
	}
}

func pidOf(ts *testscript.TestScript, pattern string, args ...string) int {
	ts.Check(ts.Exec("banger", args...))
	m := regexp.MustCompile(pattern).FindStringSubmatch(ts.ReadFile("stdout"))
	if m == nil {
		ts.Fatalf("no %s", pattern)
	}
	pid, err := strconv.Atoi(m[1])
	ts.Check(err)
	if pid <= 1 {
		ts.Fatalf("pid %d", pid)
	}
	return pid
}

// environ is the script's environment, as far as banger looks at it.
func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range scriptVariables {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

var scriptVariables = []string{
	"PATH", "HOME", "BANGER_STATE_DIR", "BANGER_RUNTIME_DIR", "BANGER_CONFIG_DIR", "BANGER_IMAGE", "BANGER_KERNEL", "BANGER_NET",
	"BANGER_MEMORY", "BANGER_CPUS", "BANGER_DISK_SIZE", behaviourVariable,
}

// tty OUT IN CODE PROGRAM ARGS...: the program runs on a terminal of 30 by 100, which types what is in the
// file IN; what the terminal shows goes to the file OUT. It ends with the code.
func cmdTTY(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: tty OUT IN CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[2])
	ts.Check(err)
	typed, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), retryFor)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[3], args[4:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(environ(ts), "TERM=xterm")
	screen, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 100})
	ts.Check(err)
	defer screen.Close()
	go screen.Write(typed)         //nolint:errcheck // a program that does not read it shows in what follows
	shown, _ := io.ReadAll(screen) // ends with EIO when the program has
	err = cmd.Wait()
	ts.Logf("[terminal]\n%s", shown)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), shown, 0o600))
	if got := codeOf(ts, err); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// tinydisk DIR SIZE mounts a file system with so much room, until the end of the script. A banger with its
// directories there (DIR/s, DIR/r) is ended first. Root only.
func cmdTinyDisk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: tinydisk DIR SIZE")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+args[1]))
	ts.Defer(func() {
		endDaemon(logger{ts}, dir)
		ts.Check(syscall.Unmount(dir, syscall.MNT_DETACH))
	})
}

type logger struct{ ts *testscript.TestScript }

func (l logger) Log(args ...any) { l.ts.Logf("%s", fmt.Sprint(args...)) }
