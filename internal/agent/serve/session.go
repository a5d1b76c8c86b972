package serve

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
)

var sessionID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func (s *Server) sessionDir(id string) (string, error) {
	if !sessionID.MatchString(id) {
		return "", api.Errorf(api.CodeInvalid, "a session's id has 1 to 63 of a-z, 0-9 and -, not %q", id)
	}
	return filepath.Join(s.o.SessionDir, id), nil
}

// startSession starts a command that outlives this call and the agent.
func (s *Server) startSession(w http.ResponseWriter, r *http.Request) error {
	var start agentapi.SessionStart
	if err := decode(r, &start); err != nil {
		return err
	}
	dir, err := s.sessionDir(start.ID)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.o.SessionDir, 0o700); err != nil {
		return fileError("make", s.o.SessionDir, err)
	}
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		return api.Errorf(api.CodeExists, "session %s exists", start.ID)
	} else if err != nil {
		return fileError("make", dir, err)
	}
	if err := s.hold(dir, start); err != nil {
		_ = os.RemoveAll(dir)
		return err
	}
	st, err := s.readSession(start.ID)
	if err != nil {
		return err
	}
	return ok(w, st)
}

// hold starts the holder and waits until it has recorded the session.
func (s *Server) hold(dir string, start agentapi.SessionStart) error {
	spec, err := json.Marshal(holdSpec{Session: start, Place: s.place})
	if err != nil {
		return err
	}
	argv := append([]string{"@banger-hold"}, s.o.HoldArgv[1:]...)
	c := &exec.Cmd{
		Path: s.o.HoldArgv[0], Args: append(argv, dir), Dir: "/",
		Env:         []string{"PATH=" + loginPath},
		Stdin:       strings.NewReader(string(spec)),
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	stderr, err := os.OpenFile(filepath.Join(dir, "holder.log"), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
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

// readSession is what is known of a session, by whichever agent it was started.
func (s *Server) readSession(id string) (agentapi.Session, error) {
	dir, err := s.sessionDir(id)
	if err != nil {
		return agentapi.Session{}, err
	}
	// Whether the holder lives is asked before the status is read: a holder that ends in
	// between has recorded how.
	held := isHeld(dir)
	st, err := readStatus(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if held {
			return agentapi.Session{}, api.Errorf(api.CodeBusy, "session %s is just being started", id)
		}
		return agentapi.Session{}, api.Errorf(api.CodeNotFound, "no session %s", id)
	}
	if err != nil {
		return agentapi.Session{}, api.Errorf(api.CodeInternal, "cannot read session %s: %w", id, err)
	}
	if st.EndedAt == nil && !held {
		now := s.o.Now().UTC()
		st.State, st.EndedAt = agentapi.SessionFailed, &now
		st.Error = api.Errorf(api.CodeInternal, "the holder of session %s was killed", id)
	}
	for name, n := range map[string]*int64{fileStdout: &st.StdoutBytes, fileStderr: &st.StderrBytes} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err == nil {
			*n = fi.Size()
		}
	}
	return st, nil
}

func readStatus(dir string) (agentapi.Session, error) {
	var st agentapi.Session
	data, err := os.ReadFile(filepath.Join(dir, fileStatus))
	if err == nil {
		err = json.Unmarshal(data, &st)
	}
	return st, err
}

// isHeld reports whether a session's holder lives.
func isHeld(dir string) bool {
	f, err := os.Open(filepath.Join(dir, fileLock))
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
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
	dir, _ := s.sessionDir(id)
	changes, err := watch(r.Context(), dir)
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
		return api.Errorf(api.CodeConflict, "session %s is running", id)
	}
	dir, _ := s.sessionDir(id)
	if err := os.RemoveAll(dir); err != nil {
		return fileError("delete", dir, err)
	}
	return ok(w, struct{}{})
}

// signalSession signals the process group of a session's command. The holder collects its
// child and records the end at once, so the number is not another's.
func (s *Server) signalSession(w http.ResponseWriter, r *http.Request) error {
	var v api.VMSignal
	if err := decode(r, &v); err != nil {
		return err
	}
	sig, err := parseSignal(v.Signal)
	if err != nil {
		return err
	}
	st, err := s.readSession(r.PathValue("id"))
	if err != nil {
		return err
	}
	if st.EndedAt != nil || st.PID <= 1 {
		return api.Errorf(api.CodeConflict, "session %s has ended", st.ID)
	}
	if err := unix.Kill(-st.PID, sig); err != nil && !errors.Is(err, unix.ESRCH) {
		return api.Errorf(api.CodeInternal, "cannot signal session %s: %w", st.ID, err)
	}
	return ok(w, struct{}{})
}
