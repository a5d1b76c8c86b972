package rootd

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host/verb"
	"banger/internal/loud"
)

// The processes that this test binary is besides a test: in a network namespace of its own, a caller of another uid, the server.
const (
	inNamespace = "BANGER_TEST_IN_NETNS"
	asCaller    = "BANGER_TEST_CALLER"
	asServer    = "BANGER_TEST_SERVER"
	withFiles   = "BANGER_TEST_FILES" // as many letters as the caller has descriptors, from 3 on
)

// TestMain runs all tests again in a fresh network namespace, out of reach of the real host's devices and rules.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "--id":
		os.Exit(jailer(os.Args[1:]))
	case os.Getenv(asCaller) != "":
		os.Exit(caller(os.Getenv(asCaller)))
	case os.Getenv(asServer) != "":
		os.Exit(Main(context.Background(), os.Args[1:], os.Stderr))
	case os.Getenv(inNamespace) != "" || os.Geteuid() != 0:
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "tests in a network namespace:", err)
		os.Exit(1)
	}
}

// answer is what a caller got.
type answer struct {
	verb.Reply
	// Files counts the descriptors that came, Broken says why there was no answer.
	Files  int
	Broken string
}

// caller sends what is on stdin to the socket as it is, and prints the answer.
func caller(socket string) int {
	var a answer
	err := func() error {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			return err
		}
		defer c.Close()
		text, err := io.ReadAll(os.Stdin)
		if err != nil {
			return err
		}
		var fds []int
		for fd := range len(os.Getenv(withFiles)) {
			fds = append(fds, 3+fd)
		}
		_, _, _ = c.WriteMsgUnix(text, unix.UnixRights(fds...), nil) // a refusal may come before all of it was taken
		files, err := verb.Receive(c, &a.Reply)
		a.Files = len(files)
		return err
	}()
	if err != nil {
		a.Broken = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(a); err != nil {
		return 1
	}
	return 0
}

// Uids that nobody has: the one that is served, another, and those of VMMs.
const (
	served, other = 64242, 64243
	base, count   = 1_900_100_000, 16
)

// room is a server with a state directory.
type room struct {
	t      *testing.T
	server *Server
	socket string
	state  string
}

func newRoom(t *testing.T) *room {
	t.Helper()
	if os.Getenv(inNamespace) == "" {
		loud.Skip(t, "this test needs root, for processes of other uids and a network namespace")
	}
	dir, err := os.MkdirTemp("/tmp", "rootd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &room{t: t, socket: filepath.Join(dir, "r", "s"), state: filepath.Join(dir, "state")}
	for _, d := range []string{dir, r.state, r.path("vms"), r.path("vms/a"), r.path("vms/a/v")} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
		if d != dir {
			r.own(d, served)
		}
	}
	l, err := listen(r.socket, served)
	if err != nil {
		t.Fatal(err)
	}
	r.server = New(Options{
		UID: served, GID: served, StateDir: r.state, Bridge: "banger0", UIDBase: base, UIDCount: count,
		Jails: filepath.Join(dir, "jails"), Firecracker: filepath.Join(dir, "bin", "firecracker"),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	ended := make(chan error, 1)
	go func() { ended <- r.server.Serve(l) }()
	t.Cleanup(func() {
		_ = l.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *room) path(rel string) string { return filepath.Join(r.state, rel) }

func (r *room) own(path string, uid int) {
	r.t.Helper()
	if err := os.Lchown(path, uid, uid); err != nil {
		r.t.Fatal(err)
	}
}

// file makes a file of the served user's.
func (r *room) file(rel string) string {
	r.t.Helper()
	if err := os.WriteFile(r.path(rel), []byte("text"), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.own(r.path(rel), served)
	return rel
}

// send is a real process of that uid which sends these bytes.
func (r *room) send(uid int, frame []byte, files ...*os.File) answer {
	r.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	// With our environment, for GORACE in it: a program with -race sleeps a second at its end.
	cmd.Env = append(os.Environ(), asCaller+"="+r.socket, withFiles+"="+strings.Repeat("f", len(files)))
	cmd.ExtraFiles = files
	cmd.Stdin = bytes.NewReader(frame)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid), Groups: []uint32{}}}
	out, err := cmd.Output()
	var a answer
	if err == nil {
		err = json.Unmarshal(out, &a)
	}
	if err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
	return a
}

func frame(t *testing.T, v any) []byte {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func (r *room) ask(v verb.Verb, args any, files ...*os.File) answer {
	r.t.Helper()
	text, err := json.Marshal(args)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.send(served, frame(r.t, verb.Request{Verb: v, Args: text}), files...)
}

// refused insists on a refusal with the code.
func (r *room) refused(a answer, code api.Code, what string) {
	r.t.Helper()
	if a.Error == nil || a.Error.Code != code || a.Files != 0 {
		r.t.Errorf("%s: %+v (error %v), want a refusal with code %s", what, a, a.Error, code)
	}
}

func (r *room) done(a answer, what string) {
	r.t.Helper()
	if a.Error != nil || a.Broken != "" {
		r.t.Errorf("%s: error %v, %s", what, a.Error, a.Broken)
	}
}

func TestListIsClosed(t *testing.T) {
	s := New(Options{})
	var listed []verb.Verb
	for _, e := range verb.Table() {
		listed = append(listed, e.Verb)
		if s.verbs[e.Verb] == nil || e.Does == "" || e.Gate == "" {
			t.Errorf("%s is in the table, and is not served or described", e.Verb)
		}
	}
	for v := range s.verbs {
		if !slices.Contains(listed, v) {
			t.Errorf("%s is served, and is not in the table", v)
		}
	}
}

func TestAnotherUID(t *testing.T) {
	r := newRoom(t)
	hello := frame(t, verb.Request{Verb: verb.Hello})
	r.done(r.send(served, hello), "the served uid")
	r.refused(r.send(0, hello), api.CodeDenied, "root")
	// The socket's own mode keeps others away.
	if a := r.send(other, hello); a.Broken == "" {
		t.Errorf("another uid got through: %+v", a)
	}
	// And if it did not, the kernel's word would.
	if err := os.Chmod(r.socket, 0o777); err != nil {
		t.Fatal(err)
	}
	r.refused(r.send(other, hello), api.CodeDenied, "another uid")
	r.refused(r.send(base, hello), api.CodeDenied, "a VMM's uid")
}

func TestUnknown(t *testing.T) {
	r := newRoom(t)
	r.refused(r.ask("process.ptrace", nil), api.CodeInvalid, "an unknown verb")
	r.refused(r.ask("", nil), api.CodeInvalid, "no verb")
	r.refused(r.ask(verb.DeleteLink, map[string]string{"Name": "bgr-a", "Force": "1"}), api.CodeInvalid, "an unknown argument")
	r.refused(r.send(served, frame(t, "hello")), api.CodeInvalid, "no request")
}

func TestOversized(t *testing.T) {
	r := newRoom(t)
	large := binary.BigEndian.AppendUint32(nil, verb.MaxFrame+1)
	r.refused(r.send(served, append(large, make([]byte, verb.MaxFrame+1)...)), api.CodeInvalid, "an oversized request")
	r.refused(r.send(served, binary.BigEndian.AppendUint32(nil, 1<<31)), api.CodeInvalid, "an announced one")
	r.done(r.send(served, frame(t, verb.Request{Verb: verb.Hello})), "the next one")
}

// TestServer: the program itself gives up what it does not need, and serves until it is told to end.
func TestServer(t *testing.T) {
	r := newRoom(t)
	socket := filepath.Join(filepath.Dir(r.socket), "2")
	cmd := exec.Command("/proc/self/exe", "--socket", socket, "--uid", fmt.Sprint(served), "--gid", fmt.Sprint(served), "--state-dir", r.state, "--jails", r.server.o.Jails)
	cmd.Env, cmd.Stderr = append(os.Environ(), asServer+"=1"), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	r.socket = socket
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if a := r.send(served, frame(t, verb.Request{Verb: verb.Hello})); a.Broken == "" {
			r.done(a, "hello")
			break
		} else if time.Now().After(deadline) {
			t.Fatal(a.Broken)
		}
	}
	for _, thread := range threads(t, cmd.Process.Pid) {
		if nnp, eff, bnd := field(t, thread, "NoNewPrivs"), field(t, thread, "CapEff"), field(t, thread, "CapBnd"); nnp != "1" || eff != bnd || eff == field(t, "/proc/self", "CapEff") {
			t.Errorf("%s: no_new_privs %s, effective %s, bounding %s", thread, nnp, eff, bnd)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestRefusesToBegin: a socket where others could put another one, and a caller that is root.
func TestRefusesToBegin(t *testing.T) {
	r := newRoom(t)
	if err := os.Chmod(filepath.Dir(r.socket), 0o777); err != nil {
		t.Fatal(err)
	}
	if l, err := listen(r.socket+"2", served); err == nil {
		_ = l.Close()
		t.Error("it listens in a directory that all can write")
	}
	for _, args := range [][]string{
		{"--uid", "0", "--gid", "0", "--socket", "/r/s", "--state-dir", "/s"},
		{"--uid", "1", "--gid", "1", "--socket", "r/s", "--state-dir", "/s"},
		{"--uid", "1", "--gid", "1", "--socket", "/r/s"},
		{"--uid", "5000", "--gid", "1", "--socket", "/r/s", "--state-dir", "/s", "--uid-base", "4990"},
		{"--uid", "1", "--gid", "1", "--socket", "/r/s", "--state-dir", "/s", "more"},
	} {
		if _, _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}
