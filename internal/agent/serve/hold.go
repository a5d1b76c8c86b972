package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
)

// The files of a session, in a directory named by its id (0700):
//
//	status                 agentapi.Session as JSON, replaced by rename
//	stdout.log, stderr.log everything from the start; the oldest is punched out beyond logKeep
//	lock                   locked by the holder for as long as it lives
//
// The spec is not among them: an environment is never stored. The holder gets it on
// its standard input.
const (
	fileStatus = "status"
	fileStdout = "stdout.log"
	fileStderr = "stderr.log"
	fileLock   = "lock"
)

// holdSpec is what a holder is told.
type holdSpec struct {
	Session agentapi.SessionStart `json:"session"`
	Place   place                 `json:"place"`
}

// holder keeps one session: its command is the holder's child, so that it survives the agent.
type holder struct {
	dir    string
	mu     sync.Mutex // protects status
	status agentapi.Session
}

// HoldMain is the holder of one session, a process of its own: args is the session's
// directory. It says "ok" on stdout as soon as the session's status can be read, and
// returns an exit code when the command has ended and nobody holds its output.
func HoldMain(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "the holder of a session takes its directory; only the agent starts it")
		return 2
	}
	// Caught and dropped; the command gets the default back at exec. A terminal
	// or an init that ends everybody ends the command, and then the holder follows.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	if err := hold(args[0]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func hold(dir string) error {
	var spec holdSpec
	if err := json.NewDecoder(io.LimitReader(os.Stdin, maxBody)).Decode(&spec); err != nil {
		return fmt.Errorf("cannot read what to hold: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, fileLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("cannot hold a session: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("cannot hold a session twice: %w", err)
	}
	var logs [2]*logFile
	for i, name := range []string{fileStdout, fileStderr} {
		if logs[i], err = createLog(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("cannot hold a session: %w", err)
		}
		defer logs[i].Close()
	}
	h := &holder{dir: dir, status: agentapi.Session{
		ID: spec.Session.ID, State: agentapi.SessionStarting, StartedAt: time.Now().UTC(),
	}}
	exec := spec.Session.Exec
	exec.Stdin = false // nobody is there to type
	c, err := spec.Place.start(exec)
	if err != nil {
		return h.cannot(err, logs[1])
	}
	if err := h.set(func(s *agentapi.Session) { s.State, s.PID = agentapi.SessionRunning, c.cmd.Process.Pid }); err != nil {
		c.group.kill()
		return err
	}
	ready()

	var pumps sync.WaitGroup
	var drained [2]<-chan struct{}
	pumps.Go(func() { drained[0] = pump(c.stdout, c.exited, logs[0].append) })
	if c.stderr != nil {
		pumps.Go(func() { drained[1] = pump(c.stderr, c.exited, logs[1].append) })
	}
	res := c.await(time.Duration(exec.TimeoutMS)*time.Millisecond, nil)
	pumps.Wait()
	err = h.set(func(s *agentapi.Session) {
		now := time.Now().UTC()
		s.State, s.EndedAt = agentapi.SessionExited, &now
		s.ExitCode, s.Signal, s.TimedOut = res.exitCode, res.signal, res.timedOut
	})
	for _, d := range drained { // children that live on must not lose their stdout
		if d != nil {
			<-d
		}
	}
	return err
}

// cannot records why the command did not start.
func (h *holder) cannot(why error, stderr *logFile) error {
	var cannot *startError
	code := 0
	e := api.AsError(why)
	if errors.As(why, &cannot) {
		code = cannot.exitCode
		e = api.Errorf(api.CodeInvalid, "%s", cannot.reason)
	}
	_ = stderr.append([]byte("banger: " + e.Message + "\n"))
	err := h.set(func(s *agentapi.Session) {
		now := time.Now().UTC()
		s.State, s.ExitCode, s.Error, s.EndedAt = agentapi.SessionFailed, code, e, &now
	})
	if err == nil {
		ready()
	}
	return err
}

// ready tells the agent that status is there, and hangs up.
func ready() {
	_, _ = os.Stdout.WriteString("ok\n")
	_ = os.Stdout.Close()
}

// set changes the status on disk, by rename.
func (h *holder) set(change func(*agentapi.Session)) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(&h.status)
	data, err := json.Marshal(h.status)
	if err != nil {
		return err
	}
	path := filepath.Join(h.dir, fileStatus)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("cannot record a session: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("cannot record a session: %w", err)
	}
	return nil
}
