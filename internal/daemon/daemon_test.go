package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/client"
	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/loud"
)

// patience bounds what would otherwise hang a failing test.
const patience = 30 * time.Second

// TestMain is bangerd itself when a test, or a client in a test, starts this program so.
func TestMain(m *testing.M) {
	if os.Getenv("BANGER_TEST_DAEMON") == "1" {
		os.Exit(Run(context.Background(), os.Args[1:], OS(), Options{Hypervisors: noHypervisor}))
	}
	if socket := os.Getenv("BANGER_TEST_CALL"); socket != "" {
		_, err := client.New(client.Options{Socket: socket, NoStart: true}).Operations(context.Background())
		os.Stdout.WriteString(string(api.CodeOf(err)))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// noHypervisor stands where no test starts a VM.
func noHypervisor(*config.Config, host.Host, *slog.Logger) ([]hypervisor.Hypervisor, error) {
	return []hypervisor.Hypervisor{none{}}, nil
}

type none struct{ hypervisor.Hypervisor }

func (none) Name() string { return "none" }
func (none) Features(context.Context) (hypervisor.Features, error) {
	return hypervisor.Features{Accel: "none", MaxCPUs: 1}, nil
}

// home is the directories of one daemon.
type home struct {
	config.Paths
	t *testing.T
}

func newHome(t *testing.T) home {
	t.Helper()
	// Not t.TempDir(): its name may be longer than a socket's may be.
	dir, err := os.MkdirTemp("", "bd")
	if err != nil {
		t.Fatal(err)
	}
	h := home{config.Paths{State: dir + "/s", Runtime: dir + "/r", Config: dir + "/c", SSH: dir + "/h"}, t}
	t.Setenv("BANGER_TEST_DAEMON", "1")
	// A bridge, and so a table of rules, that no real daemon of this host has.
	t.Setenv("BANGER_BRIDGE", "bdtest0")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := h.client().StopDaemon(ctx); err != nil && api.CodeOf(err) != api.CodeUnreachable {
			t.Errorf("cannot stop the daemon: %v", err)
		}
		h.awaitUnlocked()
		if t.Failed() {
			text, _ := os.ReadFile(h.DaemonLog())
			t.Logf("the daemon's log:\n%s", text)
		}
		os.RemoveAll(dir)
	})
	return h
}

func (h home) options() client.Options {
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	return client.Options{
		Socket: h.Socket(), StateDir: h.State, RuntimeDir: h.Runtime, ConfigDir: h.Config, SSHDir: h.SSH,
		DaemonLog: h.DaemonLog(), Program: self,
	}
}

func (h home) client() *client.Client { return client.New(h.options()) }

// call starts the daemon where none runs.
func (h home) call() error {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	_, err := h.client().Operations(ctx)
	return err
}

func (h home) mustCall() {
	h.t.Helper()
	if err := h.call(); err != nil {
		h.t.Fatal(err)
	}
}

// pid is that of the daemon that holds the lock.
func (h home) pid() int {
	h.t.Helper()
	text, err := os.ReadFile(h.Lock())
	if err != nil {
		h.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		h.t.Fatal(err)
	}
	return pid
}

// awaitUnlocked returns when no daemon runs any more; the kernel says when.
func (h home) awaitUnlocked() {
	f, err := os.Open(h.Lock())
	if err != nil {
		return // there was never one
	}
	free := make(chan error, 1)
	go func() { free <- syscall.Flock(int(f.Fd()), syscall.LOCK_SH) }()
	select {
	case err := <-free:
		if err = errors.Join(err, f.Close()); err != nil {
			h.t.Error(err)
		}
	case <-time.After(patience):
		h.t.Fatal("the daemon does not end")
	}
}

func (h home) log() string {
	h.t.Helper()
	text, err := os.ReadFile(h.DaemonLog())
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

func needRoot(t *testing.T, what string) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	loud.Skip(t, "without root: %s", what)
}

// wants fails unless err has the code and its message and hint hold every word.
func wants(t *testing.T, err error, code api.Code, words ...string) {
	t.Helper()
	if api.CodeOf(err) != code {
		t.Fatalf("got %v (%s), want %s", err, api.CodeOf(err), code)
	}
	e := api.AsError(err)
	for _, w := range words {
		if !strings.Contains(e.Message+"\n"+e.Hint, w) {
			t.Errorf("%q (hint %q) does not say %q", e.Message, e.Hint, w)
		}
	}
}

func TestClientStartsDaemon(t *testing.T) {
	h := newHome(t)
	h.mustCall()
	pid := h.pid()
	if sid, err := getsid(pid); err != nil || sid != pid {
		t.Errorf("the daemon is of session %d, %v: our terminal's Ctrl-C would end it", sid, err)
	}
	for path, mode := range map[string]os.FileMode{h.Runtime: 0o700, h.Socket(): 0o700, h.Lock(): 0o600, h.DaemonLog(): 0o600, h.Database(): 0o600} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Error(err)
		} else if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %04o, want %04o", path, info.Mode().Perm(), mode)
		}
	}
	// No descriptor of the client lives on in the daemon.
	for _, fd := range []string{"0", "3"} {
		if target, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/fd/" + fd); err == nil && strings.HasPrefix(target, "pipe:") {
			t.Errorf("the daemon holds descriptor %s, %s", fd, target)
		}
	}
	if err := h.client().StopDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.awaitUnlocked()
	if _, err := os.Lstat(h.Socket()); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
	wants(t, h.client().StopDaemon(t.Context()), api.CodeUnreachable, "not running")
	h.mustCall()
	if again := h.pid(); again == pid {
		t.Errorf("pid %d twice", pid)
	}
}

func getsid(pid int) (int, error) {
	sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(pid), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sid), nil
}

func TestInfo(t *testing.T) {
	h := newHome(t)
	info, err := h.client().Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.Version != api.Version || info.UID != os.Geteuid() || info.PID != h.pid() || info.StateDir != h.State || info.Socket != h.Socket() ||
		info.Hypervisor != "none" || info.Accel != "none" || info.CPUs < 1 || info.MemoryFreeBytes < 1<<20 || info.MemoryBytes < info.MemoryFreeBytes ||
		info.DiskFreeBytes < 1<<20 || info.VMs != 0 || len(info.Images) != 0 || info.Health == "" {
		t.Errorf("%+v", info)
	}
}

func TestManyClientsAtOnce(t *testing.T) {
	h := newHome(t)
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		wg.Go(func() { _, errs[i] = h.client().Operations(t.Context()) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("client %d: %v", i, err)
		}
	}
	if n := strings.Count(h.log(), "msg=serving"); n != 1 {
		t.Errorf("%d daemons served:\n%s", n, h.log())
	}
}

func TestStartWhileAnotherEnds(t *testing.T) {
	h := newHome(t)
	h.mustCall()
	if err := syscall.Kill(h.pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	h.mustCall()
}

func TestKilledDaemonIsStartedAgain(t *testing.T) {
	h := newHome(t)
	for range 2 {
		h.mustCall()
		if err := syscall.Kill(h.pid(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.awaitUnlocked()
		if _, err := os.Lstat(h.Socket()); err != nil {
			t.Fatalf("it left no stale socket: %v", err)
		}
	}
	h.mustCall()
}

// command is a daemon that no client starts.
func (h home) command(ctx context.Context, args ...string) *exec.Cmd {
	h.t.Helper()
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	return exec.CommandContext(ctx, self, append([]string{
		"--state-dir", h.State, "--runtime-dir", h.Runtime, "--config-dir", h.Config, "--ssh-dir", h.SSH}, args...)...)
}

// run runs a daemon to its end and returns its exit code and what it printed.
func (h home) run(args ...string) (int, string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	cmd := h.command(ctx, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		h.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

func TestSecondDaemonIsRefused(t *testing.T) {
	h := newHome(t)
	h.mustCall()
	code, out := h.run("--foreground")
	if code != 1 || !strings.Contains(out, "another bangerd (pid "+strconv.Itoa(h.pid())+")") {
		t.Errorf("exit code %d: %s", code, out)
	}
	h.mustCall()
}

// TestUnderSystemd: ready is said when the socket answers, and SIGTERM is an orderly end.
func TestUnderSystemd(t *testing.T) {
	h := newHome(t)
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: h.State + "-notify", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	said := func() string {
		if err := notify.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, err := notify.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	cmd := h.command(t.Context(), "--foreground")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify.LocalAddr().String())
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if got := said(); got != "READY=1" {
		t.Errorf("%q", got)
	}
	o := h.options()
	o.NoStart = true
	if _, err := client.New(o).Operations(t.Context()); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := said(); got != "STOPPING=1" {
		t.Errorf("%q", got)
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(log.String(), "msg=serving") {
		t.Errorf("%v: %s", err, log.String())
	}
}

func TestBadArguments(t *testing.T) {
	h := newHome(t)
	for _, args := range [][]string{{"--no-such"}, {"surplus"}, {"--cpus", "x"}, {"--state-dir", "relative"}} {
		if code, out := h.run(args...); code == 0 || out == "" {
			t.Errorf("%q: exit code %d, %q", args, code, out)
		}
	}
	if code, _ := h.run("--help"); code != 0 {
		t.Errorf("--help: exit code %d", code)
	}
}

func TestRefusalsReachTheClient(t *testing.T) {
	t.Run("state directory of another user", func(t *testing.T) {
		needRoot(t, "a directory of somebody else")
		h := newHome(t)
		if err := os.MkdirAll(h.State, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(h.State, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		wants(t, h.call(), api.CodeDenied, h.State, "uid 65534", "BANGER_STATE_DIR")
	})
	t.Run("runtime directory that others can write", func(t *testing.T) {
		h := newHome(t)
		if err := os.MkdirAll(h.Runtime, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(h.Runtime, 0o777); err != nil {
			t.Fatal(err)
		}
		wants(t, h.call(), api.CodeDenied, h.Runtime, "chmod go-w")
	})
	t.Run("a file where the socket should be", func(t *testing.T) {
		h := newHome(t)
		if err := os.MkdirAll(h.Runtime, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.Socket(), []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		wants(t, h.call(), api.CodeConflict, h.Socket(), "no socket")
		if text, err := os.ReadFile(h.Socket()); err != nil || string(text) != "precious" {
			t.Errorf("the file is now %q, %v", text, err)
		}
	})
	t.Run("state directory is a file", func(t *testing.T) {
		h := newHome(t)
		if err := os.WriteFile(h.State, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := h.call(); err == nil || !strings.Contains(err.Error(), h.State) {
			t.Error(err)
		}
	})
	t.Run("unknown key in config.toml", func(t *testing.T) {
		h := newHome(t)
		if err := os.MkdirAll(h.Config, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.ConfigFile(), []byte("cpu = 1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		wants(t, h.call(), api.CodeInvalid, "unknown key", "cpu")
	})
	t.Run("runtime directory of a daemon with another state", func(t *testing.T) {
		first, second := newHome(t), newHome(t)
		first.mustCall()
		second.Runtime = first.Runtime
		code, out := second.run("--foreground")
		if code != 1 || !strings.Contains(out, "another state directory") {
			t.Errorf("exit code %d: %s", code, out)
		}
		first.mustCall()
	})
}

// TestSocketOfAnotherUser calls root's daemon as nobody.
func TestSocketOfAnotherUser(t *testing.T) {
	needRoot(t, "calling as another user")
	h := newHome(t)
	h.mustCall()
	// The ways there are open; the runtime directory is not.
	if err := os.Chmod(filepath.Dir(h.Runtime), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env, cmd.Dir = []string{"BANGER_TEST_CALL=" + h.Socket()}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != string(api.CodeDenied) {
		t.Errorf("%s, %v", out, err)
	}
}

// TestVanishedSocket: an emptied runtime directory does not make the daemon unreachable.
func TestVanishedSocket(t *testing.T) {
	h := newHome(t)
	h.mustCall()
	pid := h.pid()
	if err := os.Remove(h.Socket()); err != nil {
		t.Fatal(err)
	}
	h.mustCall()
	if err := os.RemoveAll(h.Runtime); err != nil && !strings.Contains(err.Error(), "not empty") {
		t.Fatal(err)
	}
	h.mustCall()
	if h.pid() != pid {
		t.Errorf("the daemon was %d and is %d", pid, h.pid())
	}
}

// TestUnreachableDaemonEnds: where the socket cannot come back, the daemon makes way for one that can be reached.
func TestUnreachableDaemonEnds(t *testing.T) {
	h := newHome(t)
	h.mustCall()
	pid := h.pid()
	away := h.Runtime + "-away"
	if err := os.WriteFile(away, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// In one step, or the daemon is quicker than we are.
	if err := unix.Renameat2(unix.AT_FDCWD, h.Runtime, unix.AT_FDCWD, away, unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
	h.awaitUnlocked()
	if err := os.Remove(h.Runtime); err != nil {
		t.Fatal(err)
	}
	h.mustCall()
	if h.pid() == pid {
		t.Error("the old daemon serves again")
	}
}

func TestProgramsThatAreNoDaemon(t *testing.T) {
	h := newHome(t)
	if err := os.MkdirAll(h.State, 0o700); err != nil {
		t.Fatal(err)
	}
	o := h.options()
	o.Program = "/bin/true"
	_, err := client.New(o).Operations(t.Context())
	wants(t, err, api.CodeUnreachable, "ended before it served", h.DaemonLog())
	o.Program = filepath.Join(h.State, "nothing")
	_, err = client.New(o).Operations(t.Context())
	wants(t, err, api.CodeUnreachable, "cannot start")
	o.NoStart = true
	_, err = client.New(o).Operations(t.Context())
	wants(t, err, api.CodeUnreachable, "not running")
	o.NoStart, o.Program = false, ""
	t.Setenv("PATH", h.State)
	_, err = client.New(o).Operations(t.Context())
	wants(t, err, api.CodeMissing, "no bangerd beside banger")
}
