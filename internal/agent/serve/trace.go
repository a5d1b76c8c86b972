package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
)

// The files of a session, in a directory named by its id (0700), so that people can look at it with nothing but
// a shell. What is there when status has become exited or failed stays as it is.
//
//	spec.json              what was asked for; of the environment the names only
//	status                 one word: starting, running, stopping, exited, failed; replaced by rename, last of all
//	pid, exit_code, error  as plain text, where there is one
//	result.json            how it ended
//	stdout.log, stderr.log everything from the start; the oldest is punched out beyond the limit
//	stdout.cut, stderr.cut how much that was, once there was any
//	reserve                room for how it ends, on a disk that is full by then
//	lock                   locked for as long as the session is held
//	holder.log             what the holder itself had to complain of
const (
	fileSpec    = "spec.json"
	fileStatus  = "status"
	filePID     = "pid"
	fileExit    = "exit_code"
	fileWhy     = "error"
	fileResult  = "result.json"
	fileStdout  = "stdout.log"
	fileStderr  = "stderr.log"
	fileLock    = "lock"
	fileReserve = "reserve"
	fileHolder  = "holder.log"
)

// trace is a session's directory.
type trace string

// traceResult is result.json.
type traceResult struct {
	EndedAt  time.Time        `json:"ended_at"`
	ExitCode int              `json:"exit_code"`
	Signal   string           `json:"signal"`
	TimedOut bool             `json:"timed_out"`
	Stage    api.SessionStage `json:"stage"`
	Error    *api.Error       `json:"error"`
}

func (t trace) path(name string) string { return filepath.Join(string(t), name) }

// make makes the directory, with what is known before anything is started. The lock is held for as long as the file, or
// a copy of its descriptor, is open.
func (t trace) make(start agentapi.SessionStart, now time.Time) (lock *os.File, err error) {
	if err := os.RemoveAll(string(t)); err != nil {
		return nil, err
	}
	if err := os.Mkdir(string(t), 0o700); err != nil {
		return nil, err
	}
	if lock, err = os.OpenFile(t.path(fileLock), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return lock, err
	}
	return lock, t.begin(start, now)
}

// begin writes what is known before anything has been started.
func (t trace) begin(start agentapi.SessionStart, now time.Time) error {
	e := start.Exec
	s := agentapi.SessionSpec{
		ID: start.ID, Name: start.Name, Labels: start.Labels, Argv: e.Argv, Cwd: e.Cwd, User: e.User, TTY: e.TTY, Stdin: e.Stdin,
		Require: start.Require, StartedAt: now.UTC(), Env: []string{},
	}
	for _, kv := range e.Env {
		name, _, _ := strings.Cut(kv, "=")
		s.Env = append(s.Env, name)
	}
	if err := t.putJSON(fileSpec, s); err != nil {
		return err
	}
	return t.enter(api.SessionStarting)
}

// reserveBytes is room for the files that end writes, and for what the logs say last: a session whose output fills the disk must
// not leave it unsaid how it ended.
const reserveBytes = 64 << 10

// reserve keeps that room until it is removed.
func (t trace) reserve() error {
	f, err := os.OpenFile(t.path(fileReserve), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.Fallocate(int(f.Fd()), 0, 0, reserveBytes)
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = f.Write(make([]byte, reserveBytes))
	}
	return err
}

// runs notes the command's process.
func (t trace) runs(pid int) error {
	if err := t.put(filePID, strconv.Itoa(pid)); err != nil {
		return err
	}
	return t.enter(api.SessionRunning)
}

// stops notes that the command was asked to end, unless it has ended: over says so. The holder alone calls it, and not
// while it calls end.
func (t trace) stops(over func() bool) error {
	if over() {
		return errSessionOver
	}
	return t.enter(api.SessionStopping)
}

// end notes how it ended; state is exited or failed.
func (t trace) end(state api.SessionState, r traceResult) error {
	_ = os.Remove(t.path(fileReserve)) // there is none where it never ran
	err := t.putJSON(fileResult, r)
	if r.Error == nil || r.ExitCode != 0 || state == api.SessionExited {
		err = errors.Join(err, t.put(fileExit, strconv.Itoa(r.ExitCode)))
	}
	if r.Error != nil {
		err = errors.Join(err, t.put(fileWhy, r.Error.Message))
	}
	return errors.Join(err, t.enter(state))
}

func (t trace) putJSON(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return t.put(name, string(data))
}

// put replaces a file of one line.
func (t trace) put(name, text string) error {
	path := t.path(name)
	if err := os.WriteFile(path+".new", []byte(text+"\n"), 0o600); err != nil {
		return fmt.Errorf("cannot record a session: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("cannot record a session: %w", err)
	}
	return nil
}

// enter notes the state.
func (t trace) enter(state api.SessionState) error { return t.put(fileStatus, string(state)) }

func (t trace) state() (api.SessionState, error) {
	word, err := t.word(fileStatus)
	return api.SessionState(word), err
}

func (t trace) word(name string) (string, error) {
	data, err := os.ReadFile(t.path(name))
	return strings.TrimSpace(string(data)), err
}

func (t trace) readJSON(name string, v any) error {
	data, err := os.ReadFile(t.path(name))
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	return err
}

// held reports whether the session's holder lives, or is just being started.
func (t trace) held() bool {
	f, err := os.Open(t.path(fileLock))
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}

// over reports whether the session is known to have ended, or is none.
func (t trace) over() bool {
	state, err := t.state()
	return err != nil || state.Ended()
}

// read is what the directory says. The error is fs.ErrNotExist where it is no session's.
func (t trace) read() (agentapi.Session, error) {
	var out agentapi.Session
	if err := t.readJSON(fileSpec, &out.SessionSpec); err != nil {
		return out, err
	}
	var err error
	if out.State, err = t.state(); err != nil {
		return out, err
	}
	if pid, err := t.word(filePID); err == nil {
		out.PID, _ = strconv.Atoi(pid)
	}
	if out.State.Ended() {
		var r traceResult
		if err := t.readJSON(fileResult, &r); err != nil {
			return out, err
		}
		out.EndedAt, out.ExitCode, out.Signal, out.TimedOut = &r.EndedAt, r.ExitCode, r.Signal, r.TimedOut
		out.Stage, out.Error = r.Stage, r.Error
	}
	out.StdoutBytes, out.StdoutCut = t.sizes(fileStdout)
	out.StderrBytes, out.StderrCut = t.sizes(fileStderr)
	return out, nil
}

// sizes are a log's end, and where what is left of it begins.
func (t trace) sizes(name string) (size, cut int64) {
	f, err := os.Open(t.path(name))
	if err != nil { // it never ran
		return 0, 0
	}
	defer f.Close()
	if cut, err = logStart(f); err != nil {
		cut = 0
	}
	if st, err := f.Stat(); err == nil {
		size = st.Size()
	}
	return size, min(cut, size)
}
