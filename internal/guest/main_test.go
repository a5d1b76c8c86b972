package guest_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/agent/serve"
	"banger/internal/frame/link"
	"banger/internal/guest"
)

// TestMain is also the holder of sessions, as the agent's program is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "hold" {
		os.Exit(serve.HoldMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// agent is the real handler, served over a real link on this machine.
type agent struct {
	*guest.Client
	host    *os.File // the wire's host end
	session *link.Session
	system  *system
	o       serve.Options
}

// system stands where the guest's own would: only it is not real here.
type system struct {
	mu       sync.Mutex
	health   agentapi.Health
	shutdown *agentapi.Shutdown
	clock    []agentapi.Clock
	behind   time.Duration // of its clock
	slow     time.Duration // what the next request takes to arrive; less each time, as where programs get warm
	personal *agentapi.Personalise
	refuse   error // of Personalise
	changed  chan struct{}
	calls    []string
	disk     string // stands for the root disk
}

func (s *system) Health() agentapi.Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health
}

func (s *system) Personalise(_ context.Context, p agentapi.Personalise) (agentapi.Health, error) {
	s.arrive()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.personal = &p
	if !p.Time.IsZero() {
		s.behind = time.Since(p.Time)
	}
	return s.health, s.refuse
}

func (s *system) Shutdown(_ context.Context, sd agentapi.Shutdown) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shutdown = &sd
	return nil
}

func (s *system) arrive() {
	time.Sleep(s.slow)
	s.slow /= 2
}

func (s *system) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(-s.behind)
}

func (s *system) SetClock(c agentapi.Clock) error {
	s.arrive()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = append(s.clock, c)
	if c.Step || time.Duration(c.AdjustUS)*time.Microsecond > time.Second {
		s.behind -= time.Duration(c.AdjustUS) * time.Microsecond
	}
	return nil
}

func (s *system) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// becomes changes what Health says, and tells.
func (s *system) becomes(h agentapi.Health) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health = h
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *system) Release(context.Context, agentapi.Release) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, "release")
	return nil
}

func (s *system) Settled(context.Context) {}

func (s *system) Quiesce(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, "quiesce")
	return nil
}

func (s *system) RootDisk(context.Context) (*os.File, func() error, error) {
	f, err := os.Open(s.disk)
	return f, func() error { return f.Close() }, err
}

func (s *system) Grow(context.Context) error { return nil }

func start(t *testing.T, change func(*serve.Options)) *agent {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{system: &system{health: agentapi.Health{Ready: true, BootID: "boot", Init: "none"}, changed: make(chan struct{})}}
	dir := t.TempDir()
	a.o = serve.Options{
		System: a.system, Root: "/", SessionDir: filepath.Join(dir, "sessions"), SessionRun: filepath.Join(dir, "run"),
		HoldArgv: []string{exe, "hold"}, NetDevice: "lo",
	}
	if change != nil {
		change(&a.o)
	}
	a.connect(t)
	return a
}

// connect starts an agent with the same options and connects to it.
func (a *agent) connect(t *testing.T) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	host, port := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "port")
	handler := serve.New(a.o)
	srv := &http.Server{Handler: handler}
	l := link.Listen(port)
	served := make(chan struct{})
	go func() { defer close(served); _ = handler.Serve(l, srv) }()
	a.host = host
	a.greet(t, 1, link.Dial)
	t.Cleanup(func() {
		checkLeaks(t, a.session)
		_ = a.session.Close()
		_ = host.Close()
		_ = srv.Close()
		_ = port.Close()
		<-served
		awaitHolders(t, a.o)
	})
}

// awaitHolders returns when no session is held any more: until then its holder writes into a directory that is about to be removed.
func awaitHolders(t *testing.T, o serve.Options) {
	t.Helper()
	dir := o.SessionDir
	if dir == "" {
		dir = o.Root + api.SessionsDir
	}
	locks, _ := filepath.Glob(filepath.Join(dir, "*", "lock"))
	for _, name := range locks {
		f, err := os.Open(name)
		if err != nil {
			continue // deleted
		}
		free := make(chan error, 1)
		go func() { free <- syscall.Flock(int(f.Fd()), syscall.LOCK_SH) }()
		select {
		case <-free:
		case <-time.After(20 * time.Second):
			t.Errorf("the session of %s was left running", name)
		}
		_ = f.Close()
	}
}

// greet begins an epoch. The wire outlives it, as a guest's port does.
func (a *agent) greet(t *testing.T, epoch uint64, by func(context.Context, io.ReadWriteCloser, uint64) (*link.Session, error)) {
	t.Helper()
	fd, err := syscall.Dup(int(a.host.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // Fd has made it block
		t.Fatal(err)
	}
	session, err := by(within(t), os.NewFile(uintptr(fd), "host"), epoch)
	if err != nil {
		t.Fatal(err)
	}
	a.session = session
	a.Client = guest.New(func(ctx context.Context) (net.Conn, error) { return session.Open(ctx) })
}

// checkLeaks fails the test if a call has left a connection behind.
func checkLeaks(t *testing.T, s *link.Session) {
	for deadline := time.Now().Add(10 * time.Second); s.Streams() > 0; time.Sleep(time.Millisecond) {
		select {
		case <-s.Done(): // what was open then can no longer be counted
			return
		default:
		}
		if time.Now().After(deadline) {
			t.Errorf("%d streams were left open", s.Streams())
			return
		}
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}
