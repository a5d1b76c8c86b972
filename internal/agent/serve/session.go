package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
)

// isSessionID tells 1 to 63 of a-z, 0-9 and -, not beginning with that. It is no expression because every holder would carry
// that: see package api.
func isSessionID(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	return s != "" && len(s) <= 63 && s[0] != '-' && strings.Trim(s, letters+"-") == ""
}

func (s *Server) trace(id string) (trace, error) {
	if !isSessionID(id) {
		return "", api.Errorf(api.CodeInvalid, "a session's id has 1 to 63 of a-z, 0-9 and -, not %q", id)
	}
	return trace(filepath.Join(s.o.SessionDir, id)), nil
}

// startSession starts a command that outlives this call and the agent. One that cannot be started is a failed session, which
// says at which stage.
func (s *Server) startSession(w http.ResponseWriter, r *http.Request) error {
	var start agentapi.SessionStart
	if err := decode(r, &start); err != nil {
		return err
	}
	if start.Name == "" {
		start.Name = start.ID
	}
	t, lock, err := s.newTrace(start)
	if err != nil {
		return err
	}
	defer lock.Close()
	if stage, why := s.preflight(start); why != nil {
		err = t.end(api.SessionFailed, traceResult{EndedAt: s.o.Now().UTC(), Stage: stage, Error: api.AsError(why)})
	} else {
		err = s.hold(t, lock, start)
	}
	if err != nil {
		_ = os.RemoveAll(string(t))
		return err
	}
	st, err := s.readSession(start.ID)
	if err != nil {
		return err
	}
	return ok(w, st)
}

// newTrace makes a session's directory, with its lock held from its first moment. A name is free again when the
// session that had it never ran.
func (s *Server) newTrace(start agentapi.SessionStart) (trace, *os.File, error) {
	t, err := s.trace(start.ID)
	if err != nil {
		return "", nil, err
	}
	for _, dir := range []string{s.o.SessionDir, s.o.SessionRun} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", nil, fileError("make", dir, err)
		}
	}
	s.starting.Lock()
	defer s.starting.Unlock()
	all, err := s.listSessions()
	if err != nil {
		return "", nil, err
	}
	for _, other := range all {
		if other.Name != start.Name && other.ID != start.ID {
			continue
		}
		if other.Stage == "" {
			return "", nil, api.Errorf(api.CodeExists, "session %s exists", start.Name)
		}
		if err := os.RemoveAll(filepath.Join(s.o.SessionDir, other.ID)); err != nil {
			return "", nil, fileError("delete", other.ID, err)
		}
	}
	half := trace(filepath.Join(s.o.SessionDir, ".new-"+start.ID))
	lock, err := half.make(start, s.o.Now())
	if err == nil {
		err = os.Rename(string(half), string(t))
	}
	if err != nil {
		if lock != nil {
			_ = lock.Close()
		}
		_ = os.RemoveAll(string(half))
		return "", nil, fileError("make", string(t), err)
	}
	return t, lock, nil
}

// preflight finds out what can be known before anything is started, and at which stage it fails.
func (s *Server) preflight(start agentapi.SessionStart) (stage api.SessionStage, why error) {
	who, err := s.place.lookupUser(start.Exec.User)
	if err != nil {
		return api.StageLaunch, err
	}
	dir, err := s.place.workdir(start.Exec.Cwd, who)
	if err != nil {
		return api.StageCwd, err
	}
	env := s.place.environment(start.Exec, who)
	for _, name := range start.Require {
		var cannot *startError
		if _, err := findProgram(name, dir, env); errors.As(err, &cannot) {
			return api.StageCommand, api.Errorf(api.CodeInvalid, "a required command is missing: %s", strings.TrimPrefix(cannot.reason, "cannot run "))
		}
	}
	return "", nil
}

// hold starts the holder and waits until it has recorded the session.
func (s *Server) hold(t trace, lock *os.File, start agentapi.SessionStart) error {
	spec, err := json.Marshal(holdSpec{Session: start, Place: s.place, Ending: s.endingMark()})
	if err != nil {
		return err
	}
	socket, err := s.listen(start.ID)
	if err != nil {
		return err
	}
	defer socket.Close()
	argv := append([]string{"@banger-hold"}, s.o.HoldArgv[1:]...)
	c := &exec.Cmd{
		Path: s.o.HoldArgv[0], Args: append(argv, string(t)), Dir: "/",
		// A guest may have many holders, and each does little: as few threads and as small a heap as may be.
		Env:         []string{"PATH=" + loginPath, "GOMAXPROCS=1", "GOGC=50"},
		Stdin:       strings.NewReader(string(spec)),
		ExtraFiles:  []*os.File{lock, socket},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	stderr, err := os.OpenFile(t.path(fileHolder), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fileError("make", t.path(fileHolder), err)
	}
	defer stderr.Close()
	c.Stderr = stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return api.Errorf(api.CodeInternal, "cannot start the holder of a session: %w", err)
	}
	said, _ := io.ReadAll(out)
	go func() { _ = c.Wait() }()
	if string(said) != "ok\n" {
		why, _ := os.ReadFile(stderr.Name())
		return api.Errorf(api.CodeInternal, "cannot start session %s: %s", start.ID, strings.TrimSpace(string(why)))
	}
	return nil
}

// endingMark is a file that tells the holders that the guest is being ended. No session has such a name.
func (s *Server) endingMark() string { return filepath.Join(s.o.SessionRun, ".ending") }

// socketPath is where a session's holder answers. It is also the mark of this boot: the directory is a tmpfs. It goes
// through a descriptor of the directory, since a socket's path may have 107 bytes only.
func (s *Server) socketPath(id string) (path string, done func(), err error) {
	dir, err := os.OpenFile(s.o.SessionRun, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", nil, fileError("open", s.o.SessionRun, err)
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), id), func() { _ = dir.Close() }, nil
}

// listen makes the socket that the holder inherits: whoever comes before it runs waits for it.
func (s *Server) listen(id string) (*os.File, error) {
	path, done, err := s.socketPath(id)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fileError("replace", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, api.Errorf(api.CodeInternal, "cannot listen for a session: %w", err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	return l.File()
}

// readSession is what is known of a session, by whichever agent it was started. One that nobody holds any more is
// written down as failed.
func (s *Server) readSession(id string) (agentapi.Session, error) {
	t, err := s.trace(id)
	if err != nil {
		return agentapi.Session{}, err
	}
	// Whether the holder lives is asked before the status is read: a holder that ends in
	// between has recorded how.
	held := t.held()
	st, err := t.read()
	if errors.Is(err, fs.ErrNotExist) {
		return agentapi.Session{}, api.Errorf(api.CodeNotFound, "no session %s", id)
	}
	if err != nil {
		return agentapi.Session{}, api.Errorf(api.CodeInternal, "cannot read session %s: %w", id, err)
	}
	if held || st.EndedAt != nil {
		return st, nil
	}
	s.settling.Lock()
	defer s.settling.Unlock()
	if st, err = t.read(); err != nil || st.EndedAt != nil { // somebody else has written it down
		return st, err
	}
	lost := traceResult{EndedAt: s.o.Now().UTC(), Error: api.Errorf(api.CodeInternal, "the guest was restarted")}
	if _, err := os.Lstat(filepath.Join(s.o.SessionRun, id)); err == nil {
		lost.Error = api.Errorf(api.CodeInternal, "its holder in the guest was killed")
	}
	if err := t.end(api.SessionFailed, lost); err != nil {
		s.log.Warn("cannot record the end of a session", "session", id, "err", err)
	}
	st.State, st.EndedAt, st.Error = api.SessionFailed, &lost.EndedAt, lost.Error
	return st, nil
}

// listSessions are all that can be read, by id.
func (s *Server) listSessions() ([]agentapi.Session, error) {
	entries, err := os.ReadDir(s.o.SessionDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, api.Errorf(api.CodeInternal, "cannot list the sessions: %w", err)
	}
	out := []agentapi.Session{}
	for _, e := range entries {
		if !isSessionID(e.Name()) {
			continue
		}
		st, err := s.readSession(e.Name())
		if err != nil {
			s.log.Warn("cannot read a session", "session", e.Name(), "err", err)
			continue
		}
		out = append(out, st)
	}
	return out, nil
}

func (s *Server) sessions(w http.ResponseWriter, _ *http.Request) error {
	all, err := s.listSessions()
	if err != nil {
		return err
	}
	return ok(w, all)
}

// session answers with a session, with ?wait=true once it has ended.
func (s *Server) session(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	st, err := s.readSession(id)
	if err != nil {
		return err
	}
	if r.URL.Query().Get("wait") != "true" {
		return ok(w, st)
	}
	t, _ := s.trace(id)
	changes, err := watch(r.Context(), string(t))
	if err != nil {
		return err
	}
	defer changes.Close()
	for {
		if st, err = s.readSession(id); err != nil {
			return err
		}
		if st.EndedAt != nil {
			return ok(w, st)
		}
		if err := changes.next(); err != nil {
			return api.Errorf(api.CodeCancelled, "the caller has gone")
		}
	}
}

// deleteSession forgets a session that has ended.
func (s *Server) deleteSession(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	st, err := s.readSession(id)
	if err != nil {
		return err
	}
	if st.EndedAt == nil {
		return api.Errorf(api.CodeConflict, "session %s is running", st.Name)
	}
	t, _ := s.trace(id)
	if err := os.RemoveAll(string(t)); err != nil {
		return fileError("delete", string(t), err)
	}
	_ = os.Remove(filepath.Join(s.o.SessionRun, id))
	return ok(w, struct{}{})
}
