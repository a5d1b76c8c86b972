package guest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/frame"
)

// StartSession starts a command that outlives the conversation. A command that cannot be
// executed is no error here but a session in state failed. Code already_exists where the id is taken.
func (c *Client) StartSession(ctx context.Context, s agentapi.SessionStart) (agentapi.Session, error) {
	return post[agentapi.Session](ctx, c, "/sessions", s)
}

// Session describes a session.
func (c *Client) Session(ctx context.Context, id string) (agentapi.Session, error) {
	return get[agentapi.Session](ctx, c, "/sessions/"+url.PathEscape(id), nil)
}

// WaitSession returns when a session has ended. It does not survive a restart of the agent
// (code not_ready): ask again.
func (c *Client) WaitSession(ctx context.Context, id string) (agentapi.Session, error) {
	return get[agentapi.Session](ctx, c, "/sessions/"+url.PathEscape(id), url.Values{"wait": {"true"}})
}

// DeleteSession forgets a session that has ended, and its logs.
func (c *Client) DeleteSession(ctx context.Context, id string) error {
	_, err := call[struct{}](ctx, c, request{method: http.MethodDelete, path: "/sessions/" + url.PathEscape(id)})
	return err
}

// Sessions lists the guest's sessions, by id.
func (c *Client) Sessions(ctx context.Context) ([]agentapi.Session, error) {
	return get[[]agentapi.Session](ctx, c, "/sessions", nil)
}

// SignalSession signals the process group of a session's command; KILL is for all that it has started.
func (c *Client) SignalSession(ctx context.Context, id, signal string) error {
	_, err := post[struct{}](ctx, c, "/sessions/"+url.PathEscape(id)+"/signal", api.VMSignal{Signal: signal})
	return err
}

// StopSession asks a session's command to end (TERM), and notes that it was asked.
func (c *Client) StopSession(ctx context.Context, id string) (agentapi.Session, error) {
	return post[agentapi.Session](ctx, c, "/sessions/"+url.PathEscape(id)+"/stop", nil)
}

// LogFrom says where in a log to begin: at an offset or, if Tail is set, so many lines before the end.
type LogFrom struct {
	Offset int64
	Tail   *int
}

// SessionLog reads a stream ("stdout", "stderr") of a session from an offset on. start is the offset of
// the first byte that comes: later than asked for where older output is gone. With follow it
// goes on until the session has ended. An error other than io.EOF means that there may be more:
// ask again from where it broke off.
func (c *Client) SessionLog(ctx context.Context, id, stream string, from LogFrom, follow bool) (log io.ReadCloser, start int64, err error) {
	q := url.Values{"stream": {stream}, "offset": {strconv.FormatInt(from.Offset, 10)}, "follow": {strconv.FormatBool(follow)}}
	if from.Tail != nil {
		q.Set("tail", strconv.Itoa(*from.Tail))
	}
	r, err := c.do(ctx, request{method: http.MethodGet, path: "/sessions/" + url.PathEscape(id) + "/log", query: q})
	if err != nil {
		return nil, 0, err
	}
	start, err = strconv.ParseInt(r.Header.Get(api.LogOffsetHeader), 10, 64)
	if err != nil {
		return nil, 0, r.fail(err)
	}
	return r.Body, start, nil
}

// SessionStream is a conversation with a session's holder: the frames of attach or send.
type SessionStream struct {
	conn *upgraded
	// Stdout and Stderr are the offsets from which on the streams are sent; for attach only.
	Stdout, Stderr int64
	// Stdin is what api.StdinOffsetHeader says.
	Stdin int64
}

// Close lets go of the session.
func (s *SessionStream) Close() error { return s.conn.Close() }

// AttachSession becomes the one who is attached to a session. Code busy where somebody else is, conflict where it has ended.
func (c *Client) AttachSession(ctx context.Context, id string, a api.SessionAttach) (*SessionStream, error) {
	q := url.Values{"key": {a.Key}}
	for name, offset := range map[string]*int64{"stdout_offset": a.StdoutOffset, "stderr_offset": a.StderrOffset} {
		if offset != nil {
			q.Set(name, strconv.FormatInt(*offset, 10))
		}
	}
	conn, header, err := c.upgradeHeader(ctx, http.MethodPost, "/sessions/"+url.PathEscape(id)+"/attach", q, api.UpgradeFrames)
	if err != nil {
		return nil, err
	}
	s := &SessionStream{conn: conn, Stdin: stdinOffset(header)}
	var bad1, bad2 error
	s.Stdout, bad1 = strconv.ParseInt(header.Get(api.StdoutOffsetHeader), 10, 64)
	s.Stderr, bad2 = strconv.ParseInt(header.Get(api.StderrOffsetHeader), 10, 64)
	if err := errors.Join(bad1, bad2); err != nil {
		_ = conn.Close()
		return nil, api.Errorf(api.CodeInternal, "cannot read the answer of the guest's agent: %w", err)
	}
	return s, nil
}

// SendSession opens a session's standard input; see api.SessionAttach for the key, which may be empty. Code conflict where it is
// closed, or the session has ended.
func (c *Client) SendSession(ctx context.Context, id, key string) (*SessionStream, error) {
	q := url.Values{"key": {key}}
	conn, header, err := c.upgradeHeader(ctx, http.MethodPost, "/sessions/"+url.PathEscape(id)+"/send", q, api.UpgradeFrames)
	if err != nil {
		return nil, err
	}
	return &SessionStream{conn: conn, Stdin: stdinOffset(header)}, nil
}

// stdinOffset is -1 where the agent does not say it.
func stdinOffset(h http.Header) int64 {
	if n, err := strconv.ParseInt(h.Get(api.StdinOffsetHeader), 10, 64); err == nil {
		return n
	}
	return -1
}

// Relay passes the frames between a client and a session, until the exit or an error has been passed on or
// the client has gone. why may put a better reason in the place of the one for which the stream broke. It closes neither end.
func (s *SessionStream) Relay(ctx context.Context, client io.ReadWriter, why func(error) error) error {
	out := frame.NewWriter(client)
	exit, err := pass(ctx, client, frame.NewReader(client), out, s.conn, Hooks{})
	if err == nil {
		return out.Control(exit)
	}
	if why != nil {
		err = why(err)
	}
	if cause := (*api.Error)(nil); errors.As(context.Cause(ctx), &cause) { // the daemon ends: the client may come again
		err = cause
	}
	_ = out.Control(api.Control{Type: api.ControlError, Error: api.AsError(err)})
	return err
}
