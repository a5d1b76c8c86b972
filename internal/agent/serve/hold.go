package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
)

// holdSpec is what a holder is told, on its standard input: an environment is never stored.
type holdSpec struct {
	Session agentapi.SessionStart `json:"session"`
	Place   place                 `json:"place"`
	// Ending is a file that is there once the guest is being ended.
	Ending string `json:"ending"`
}

// What a holder is started with: the session's lock, held already, and the socket that it answers on.
const (
	fdHoldLock   = 3
	fdHoldSocket = 4
)

// holder keeps one session: its command is the holder's child, so that it survives the agent.
type holder struct {
	trace trace
	spec  agentapi.SessionStart
	c     *command
	input *input
	// logs are stdout's and stderr's. screen is what stdout's terminal was told; it changes under the log's mu.
	logs    [2]*logFile
	screen  modes
	typists typists
	// done is closed when the end is recorded; then result counts.
	done   chan struct{}
	result result

	// mu protects the following.
	mu       sync.Mutex
	attached *attachment
	// callers counts those who are being talked to.
	callers sync.WaitGroup
}

// HoldMain is the holder of one session, a process of its own: args is the session's
// directory. It says "ok" on stdout as soon as the command has been started, or that it cannot be is recorded, and
// returns an exit code when the command has ended and nobody holds its output.
func HoldMain(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "the holder of a session takes its directory; only the agent starts it")
		return 2
	}
	// Caught and dropped; the command gets the default back at exec. A terminal
	// or an init that ends everybody ends the command, and then the holder follows.
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, unix.SIGTERM)
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	if err := hold(trace(args[0]), asked); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func hold(dir trace, asked <-chan os.Signal) error {
	unix.CloseOnExec(fdHoldLock)
	unix.CloseOnExec(fdHoldSocket)
	var spec holdSpec
	if err := json.NewDecoder(io.LimitReader(os.Stdin, maxBody)).Decode(&spec); err != nil {
		return fmt.Errorf("cannot read what to hold: %w", err)
	}
	file := os.NewFile(fdHoldSocket, "socket")
	listener, err := net.FileListener(file)
	if err != nil {
		return fmt.Errorf("cannot hold a session: %w", err)
	}
	_ = file.Close()
	defer listener.Close()
	h := &holder{trace: dir, spec: spec.Session, done: make(chan struct{})}
	limit := spec.Session.LogLimitBytes
	if limit <= 0 {
		limit = agentapi.DefaultSessionLog
	}
	for i, name := range []string{fileStdout, fileStderr} {
		if h.logs[i], err = createLog(dir.path(name), limit); err != nil {
			return fmt.Errorf("cannot hold a session: %w", err)
		}
		defer h.logs[i].Close()
	}
	if err := dir.reserve(); err != nil {
		return fmt.Errorf("cannot hold a session: %w", err)
	}
	if h.spec.Exec.TTY {
		h.logs[0].seen = h.screen.see
	}
	spec.Place.dies = true
	if spec.Place.Protected {
		spec.Place.oom = protect()
	}
	if h.c, err = spec.Place.start(h.spec.Exec); err != nil {
		return h.cannot(err)
	}
	h.spec.Exec.Env = nil
	h.input = newInput(h.c, h.spec.Exec.Stdin)
	if err := dir.runs(h.c.pid); err != nil {
		h.c.group.kill()
		return err
	}
	ready()
	go h.answer(listener)
	return h.follow(func() bool { return isEnding(spec.Ending, asked) })
}

// isEnding reports whether the guest is being ended: its agent was told to, or somebody asks every process to end.
func isEnding(mark string, asked <-chan os.Signal) bool {
	if _, err := os.Lstat(mark); err == nil {
		return true
	}
	select {
	case <-asked:
		return true
	default:
	}
	init, err := os.ReadFile("/proc/1/comm")
	return err == nil && strings.HasPrefix(string(init), "systemd-shutdow")
}

// follow keeps the command's output until it has ended, and records that.
func (h *holder) follow(ending func() bool) error {
	var pumps sync.WaitGroup
	var drained [2]<-chan struct{}
	pumps.Go(func() { drained[0] = pump(h.c.stdout, h.c.exited, h.logs[0].append) })
	if h.c.stderr != nil {
		pumps.Go(func() { drained[1] = pump(h.c.stderr, h.c.exited, h.logs[1].append) })
	}
	h.result = h.c.await(time.Duration(h.spec.Exec.TimeoutMS)*time.Millisecond, nil)
	pumps.Wait()
	r := traceResult{EndedAt: time.Now().UTC(), ExitCode: h.result.exitCode, Signal: h.result.signal, TimedOut: h.result.timedOut}
	state := api.SessionExited
	if r.Signal != "" && ending() { // it did not end, it was ended
		state, r.Error = api.SessionFailed, api.Errorf(api.CodeCancelled, "the guest was stopped")
	}
	if lost := h.logs[0].losses + h.logs[1].losses; lost > 0 && r.Error == nil {
		why := h.logs[0].why
		if why == nil {
			why = h.logs[1].why
		}
		r.Error = api.Errorf(api.CodeExhausted, "%d bytes of its output could not be kept: %w", lost, why)
	}
	h.mu.Lock()
	err := h.trace.end(state, r)
	close(h.done)
	h.mu.Unlock()
	h.logs[0].end()
	h.logs[1].end()
	h.awaitCallers()
	for _, d := range drained { // children that live on must not lose their stdout
		if d != nil {
			<-d
		}
	}
	return err
}

// awaitCallers lets those who are attached read the rest. One who does not read at all finds it in the log.
func (h *holder) awaitCallers() {
	gone := make(chan struct{})
	go func() { h.callers.Wait(); close(gone) }()
	select {
	case <-gone:
	case <-time.After(lastRead):
	}
}

// lastRead is how long somebody who is attached may take to read the rest after the end.
const lastRead = 30 * time.Second

// cannot records why the command did not start.
func (h *holder) cannot(why error) error {
	r := traceResult{EndedAt: time.Now().UTC(), Stage: api.StageLaunch, Error: api.AsError(why)}
	var cannot *startError
	if errors.As(why, &cannot) {
		r.ExitCode = cannot.exitCode
		r.Error = api.Errorf(api.CodeInvalid, "%s", cannot.reason)
	}
	_ = h.logs[1].append([]byte("banger: " + r.Error.Message + "\n"))
	err := h.trace.end(api.SessionFailed, r)
	if err == nil {
		ready()
	}
	return err
}

// ready tells the agent that the trace says how it went, and hangs up.
func ready() {
	_, _ = os.Stdout.WriteString("ok\n")
	_ = os.Stdout.Close()
}
