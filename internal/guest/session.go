package guest

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"banger/api"
	"banger/api/agentapi"
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

// SignalSession signals the process group of a session's command.
func (c *Client) SignalSession(ctx context.Context, id, signal string) error {
	_, err := post[struct{}](ctx, c, "/sessions/"+url.PathEscape(id)+"/signal", api.VMSignal{Signal: signal})
	return err
}

// SessionLog reads a stream ("stdout", "stderr") of a session from an offset on. start is the offset of
// the first byte that comes: later than asked for where older output is gone. With follow it
// goes on until the session has ended. An error other than io.EOF means that there may be more:
// ask again from where it broke off.
func (c *Client) SessionLog(ctx context.Context, id, stream string, offset int64, follow bool) (log io.ReadCloser, start int64, err error) {
	r, err := c.do(ctx, request{
		method: http.MethodGet, path: "/sessions/" + url.PathEscape(id) + "/log",
		query: url.Values{"stream": {stream}, "offset": {strconv.FormatInt(offset, 10)}, "follow": {strconv.FormatBool(follow)}},
	})
	if err != nil {
		return nil, 0, err
	}
	start, err = strconv.ParseInt(r.Header.Get(api.LogOffsetHeader), 10, 64)
	if err != nil {
		return nil, 0, r.fail(err)
	}
	return r.Body, start, nil
}
