package serve

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"banger/api"
)

// askTime bounds what a holder may take to answer.
const askTime = 30 * time.Second

// ask says something to a session's holder. The connection is the caller's, with what was read ahead.
func (s *Server) ask(id string, what holdAsk) (net.Conn, *bufio.Reader, holdAnswer, error) {
	st, err := s.readSession(id)
	if err != nil {
		return nil, nil, holdAnswer{}, err
	}
	if st.EndedAt != nil {
		return nil, nil, holdAnswer{}, api.Errorf(api.CodeConflict, "session %s has ended", st.Name)
	}
	path, done, err := s.socketPath(id)
	if err != nil {
		return nil, nil, holdAnswer{}, err
	}
	defer done()
	conn, err := net.DialTimeout("unix", path, askTime)
	if err != nil {
		return nil, nil, holdAnswer{}, api.Errorf(api.CodeConflict, "session %s has ended", st.Name) // just now
	}
	in := bufio.NewReader(conn)
	answer, err := converse(conn, in, what)
	if err == nil && answer.Error != nil {
		err = api.Errorf(answer.Error.Code, "session %s: %s", st.Name, answer.Error.Message)
	}
	if err != nil {
		_ = conn.Close()
		return nil, nil, holdAnswer{}, err
	}
	return conn, in, answer, nil
}

func converse(conn net.Conn, in *bufio.Reader, what holdAsk) (answer holdAnswer, err error) {
	if err := conn.SetDeadline(time.Now().Add(askTime)); err != nil {
		return answer, err
	}
	if err := json.NewEncoder(conn).Encode(what); err != nil {
		return answer, api.Errorf(api.CodeInternal, "cannot talk to the session's holder: %w", err)
	}
	line, err := in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &answer)
	}
	if err != nil {
		return answer, api.Errorf(api.CodeInternal, "the session's holder does not answer: %w", err)
	}
	return answer, conn.SetDeadline(time.Time{})
}

// signalSession signals the process group of a session's command; KILL is for all that it has started.
func (s *Server) signalSession(w http.ResponseWriter, r *http.Request) error {
	var v api.VMSignal
	if err := decode(r, &v); err != nil {
		return err
	}
	if _, err := parseSignal(v.Signal); err != nil {
		return err
	}
	return s.tell(w, r.PathValue("id"), holdAsk{Do: askSignal, Signal: v.Signal})
}

func (s *Server) stopSession(w http.ResponseWriter, r *http.Request) error {
	return s.tell(w, r.PathValue("id"), holdAsk{Do: askStop})
}

// tell asks for something that needs no conversation, and answers with the session.
func (s *Server) tell(w http.ResponseWriter, id string, what holdAsk) error {
	conn, _, _, err := s.ask(id, what)
	if err != nil {
		return err
	}
	_ = conn.Close()
	st, err := s.readSession(id)
	if err != nil {
		return err
	}
	return ok(w, st)
}

func (s *Server) attachSession(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	what := holdAsk{Do: askAttach, Key: q.Get("key")}
	var err error
	if what.Stdout, err = offsetParam(q, "stdout_offset"); err != nil {
		return err
	}
	if what.Stderr, err = offsetParam(q, "stderr_offset"); err != nil {
		return err
	}
	return s.relay(w, r, what)
}

func offsetParam(q url.Values, name string) (int64, error) {
	v := q.Get(name)
	if v == "" {
		return -1, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0, api.Errorf(api.CodeInvalid, "the offset %q is not a number from 0 up", v)
	}
	return n, nil
}

func (s *Server) sendSession(w http.ResponseWriter, r *http.Request) error {
	return s.relay(w, r, holdAsk{Do: askSend, Key: r.URL.Query().Get("key")})
}

// relay passes the frames of a caller to a session's holder and back. Whoever of the two goes ends it.
func (s *Server) relay(w http.ResponseWriter, r *http.Request, what holdAsk) error {
	holder, fromHolder, answer, err := s.ask(r.PathValue("id"), what)
	if err != nil {
		return err
	}
	defer holder.Close()
	conn, in, err := upgradeWith(w, r, api.UpgradeFrames, map[string]string{
		api.StdoutOffsetHeader: strconv.FormatInt(answer.Stdout, 10),
		api.StderrOffsetHeader: strconv.FormatInt(answer.Stderr, 10),
		api.StdinOffsetHeader:  strconv.FormatInt(answer.Stdin, 10),
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	if t, ok := conn.(interface{ PeerClosed() <-chan struct{} }); ok {
		over := make(chan struct{})
		defer close(over)
		go func() { // seen at once, also while the holder does not take what the caller sends
			select {
			case <-t.PeerClosed():
				_ = holder.Close()
			case <-over:
			}
		}()
	}
	go func() {
		_, _ = io.Copy(onlyWriter{holder}, onlyReader{in})
		_ = holder.Close()
	}()
	_, _ = io.Copy(onlyWriter{conn}, onlyReader{fromHolder})
	return nil
}

// onlyWriter hides ReadFrom, as onlyReader hides WriteTo.
type onlyWriter struct{ io.Writer }
