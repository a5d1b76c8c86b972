package fake

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/agent/serve"
	"banger/internal/frame/link"
)

// The descriptors that a guest inherits: its port, and a pipe that ends with the VMM.
const (
	fdPort = 3
	fdLife = 4
)

// How a guest's process ends.
const (
	exitPowerOff = 0
	exitReboot   = 10
	exitPulled   = 11 // the VMM is gone: like a guest whose plug was pulled, it says nothing any more
)

// guestRoot is the host's own root under a name that the server does not take for a
// guest's: users are then not switched and nothing is synced.
const guestRoot = "/."

// runSuffix makes the name of the directory of the sessions' sockets.
const runSuffix = ".run"

// guest is the process that serves the agent's code.
type guest struct {
	*system
	code chan int

	mu     sync.Mutex // protects ending
	ending *int       // the exit code, once the answer to Shutdown has left
}

// runGuest serves until the guest is told to end or the VMM has ended.
func runGuest(program string, spec *machineSpec) (int, error) {
	// The commands' orphans come to this process, so that it finds them at the end.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, err
	}
	// The sessions' traces outlive the guest, as on a work disk; what runs is forgotten, as in a guest's /run.
	sessions := filepath.Join(spec.Machine.Dir, "sessions")
	if err := os.RemoveAll(sessions + runSuffix); err != nil {
		return 1, err
	}
	sys, err := newSystem(spec)
	if err != nil {
		return 1, err
	}
	g := &guest{system: sys, code: make(chan int, 2)}
	say := func(format string, args ...any) {
		fmt.Printf("[%12.6f] %s\n", time.Since(g.Booted).Seconds(), fmt.Sprintf(format, args...))
	}
	if spec.Thawed == nil {
		say("Linux version 0.0.0-fake (banger) for %s", spec.Machine.ID)
		say("Command line: %s", spec.Machine.Cmdline)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.NewFile(fdLife, "life"))
		g.code <- exitPulled
	}()
	if spec.does(dies) {
		say("Kernel panic - not syncing: told to die")
		return exitReboot, nil
	}
	if spec.does(silent) {
		say("banger-agent: waiting for the disk of another machine")
	} else if err := g.listen(program, sessions); err != nil {
		return 1, err
	} else if spec.Thawed == nil {
		say("banger-agent: up")
	}
	code := <-g.code
	endAll(0)
	switch code {
	case exitReboot:
		say("reboot: Restarting system")
	case exitPowerOff:
		say("reboot: Power down")
	}
	return code, nil
}

func (g *guest) listen(program, sessions string) error {
	f := os.NewFile(fdPort, "port")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return err
	}
	handler := serve.New(serve.Options{
		System: g, Root: guestRoot, SessionDir: sessions, SessionRun: sessions + runSuffix, HoldArgv: []string{program, roleHold},
		NetDevice: "lo", Log: slog.New(slog.DiscardHandler),
	})
	server := &http.Server{
		Handler:           handler,
		ConnState:         func(_ net.Conn, s http.ConnState) { g.answered(s) },
		ReadHeaderTimeout: time.Minute,
	}
	go func() { _ = handler.Serve(link.Listen(conn), server) }()
	return nil
}

// answered ends the guest once the connection that asked for it has had its answer.
func (g *guest) answered(s http.ConnState) {
	if s != http.StateIdle && s != http.StateClosed {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ending != nil {
		g.code <- *g.ending
		g.ending = nil
	}
}
