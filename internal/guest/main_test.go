package guest_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

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
	session *link.Session
	system  *system
	o       serve.Options
}

// system stands where the guest's own would: only it is not real here.
type system struct {
	mu         sync.Mutex
	health     agentapi.Health
	shutdown   *agentapi.Shutdown
	clock      time.Time
	personal   *agentapi.Personalise
	askedFirst int // how many times Health says no before it says yes
}

func (s *system) Health() agentapi.Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.health
	if s.askedFirst > 0 {
		s.askedFirst--
		h.Ready, h.Waiting = false, "dbus.service"
	}
	return h
}

func (s *system) Personalise(_ context.Context, p agentapi.Personalise) (agentapi.Health, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.personal = &p
	return s.health, nil
}

func (s *system) Shutdown(_ context.Context, sd agentapi.Shutdown) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shutdown = &sd
	return nil
}

func (s *system) SetClock(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = t
	return nil
}

func (s *system) Grow(context.Context) error { return nil }

func start(t *testing.T, change func(*serve.Options)) *agent {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{system: &system{health: agentapi.Health{Ready: true, BootID: "boot", Init: "none"}}}
	a.o = serve.Options{
		System: a.system, Root: "/", SessionDir: filepath.Join(t.TempDir(), "sessions"),
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
	srv := &http.Server{Handler: serve.New(a.o)}
	l := link.Listen(port)
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(l) }()
	a.session, err = link.Dial(within(t), host, 1)
	if err != nil {
		t.Fatal(err)
	}
	session := a.session
	a.Client = guest.New(func(ctx context.Context) (net.Conn, error) { return session.Open(ctx) })
	t.Cleanup(func() {
		checkLeaks(t, session)
		_ = session.Close()
		_ = srv.Close()
		<-served
	})
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

// skip leaves a test out, except where everything must run.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("BANGER_TEST_NO_SKIP") == "1" {
		t.Fatal("NOT SKIPPED: " + why)
	}
	t.Skip("SKIPPED: " + why)
}
