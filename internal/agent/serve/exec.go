package serve

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"banger/api"
	"banger/internal/frame"
)

// exec runs one command over an upgraded stream; package frame tells the conversation.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) error {
	conn, in, err := upgrade(w, r, api.UpgradeFrames)
	if err != nil {
		return err
	}
	defer conn.Close()
	out := frame.NewWriter(conn)
	frames := frame.NewReader(in)
	spec, err := readStart(frames)
	var exit api.Control
	if err == nil {
		exit, err = s.execute(conn, spec, frames, out)
	}
	switch {
	case err == nil:
		_ = out.Control(exit)
	case !errors.Is(err, errGone):
		_ = out.Control(api.Control{Type: api.ControlError, Error: api.AsError(err)})
	}
	return nil
}

// errGone says that there is nobody left to talk to.
var errGone = errors.New("the caller has gone")

func readStart(in *frame.Reader) (api.ExecSpec, error) {
	f, err := in.Read()
	if err != nil {
		return api.ExecSpec{}, orGone(err)
	}
	m, err := f.Control()
	if err != nil {
		return api.ExecSpec{}, err
	}
	if m.Type != api.ControlStart || m.Exec == nil {
		return api.ExecSpec{}, api.Errorf(api.CodeInvalid, "a stream begins with start, not with %q", m.Type)
	}
	return *m.Exec, nil
}

// execute runs a command to its end, and returns the exit to send.
func (s *Server) execute(conn net.Conn, spec api.ExecSpec, in *frame.Reader, out *frame.Writer) (api.Control, error) {
	began := time.Now()
	c, err := s.place.start(spec)
	var cannot *startError
	if errors.As(err, &cannot) {
		_ = out.Write(frame.Stderr, []byte("banger: "+cannot.reason+lineEnd(spec.TTY)))
		return api.Control{
			Type: api.ControlExit, ExitCode: cannot.exitCode, DurationMS: time.Since(began).Milliseconds(),
			Error: api.Errorf(api.CodeInvalid, "%s", cannot.reason),
		}, nil
	}
	if err != nil {
		return api.Control{}, err
	}
	caller := newCaller(conn, in, c, spec)
	go caller.listen()
	var pumps sync.WaitGroup
	pumps.Go(func() { pump(c.stdout, c.exited, func(p []byte) error { return out.Write(frame.Stdout, p) }) })
	if c.stderr != nil {
		pumps.Go(func() { pump(c.stderr, c.exited, func(p []byte) error { return out.Write(frame.Stderr, p) }) })
	}
	res := c.await(time.Duration(spec.TimeoutMS)*time.Millisecond, caller.gone)
	if !caller.here() {
		_ = conn.Close() // lets go of a pump that writes
	}
	pumps.Wait()
	return api.Control{
		Type: api.ControlExit, ExitCode: res.exitCode, Signal: res.signal, TimedOut: res.timedOut,
		DurationMS: res.duration.Milliseconds(),
	}, nil
}

func lineEnd(tty bool) string {
	if tty {
		return "\r\n"
	}
	return "\n"
}

// orGone keeps what the caller did wrong and drops what only says that it is gone.
func orGone(err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		return err
	}
	return errGone
}

// upgrade answers 101 and takes the connection over. in holds what was read ahead.
func upgrade(w http.ResponseWriter, r *http.Request, token string) (conn net.Conn, in io.Reader, err error) {
	return upgradeWith(w, r, token, nil)
}

// upgradeWith is upgrade with headers.
func upgradeWith(w http.ResponseWriter, r *http.Request, token string, headers map[string]string) (conn net.Conn, in io.Reader, err error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), token) {
		return nil, nil, api.Errorf(api.CodeInvalid, "this call needs the header Upgrade: %s", token)
	}
	hj, ok := w.(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("the connection cannot be taken over")
	}
	conn, rw, err := hj.Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot take the connection over: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	var more strings.Builder
	for k, v := range headers {
		more.WriteString(k + ": " + v + "\r\n")
	}
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s\r\n", token, more.String()); err != nil {
		_ = conn.Close()
		return nil, nil, errGone
	}
	return conn, rw.Reader, nil
}
