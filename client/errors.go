package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"

	"banger/api"
)

// rootState is where a daemon of root keeps its machines; a user is told of it when a VM is not found.
const rootState = "/var/lib/banger"

// errStopping marks the refusal of a daemon that is ending and has not touched the request.
var errStopping = errors.New("the daemon is stopping")

// answerError turns an answer that is no success into its *api.Error.
func (c *Client) answerError(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return api.Errorf(api.CodeUnreachable, "cannot read the daemon's answer: %w", err)
	}
	var body api.ErrorBody
	if json.Unmarshal(data, &body) != nil || body.Error.Code == "" {
		return api.Errorf(api.CodeInternal, "whoever listens at %s is not bangerd (it answered %s)", c.opts.Socket, resp.Status)
	}
	e := &body.Error
	if resp.Header.Get(api.StoppingHeader) != "" {
		e.Cause = errStopping
		return e
	}
	if v := resp.Header.Get(api.VersionHeader); e.Code == api.CodeInvalid && e.Hint == "" && v != "" && v != api.Version {
		e.Hint = restartHint
	}
	return elsewhere(e, resp.Request)
}

// elsewhere says that root may have the VM which this user does not have. In a call about a path
// it is the path that was not found, as a rule.
func elsewhere(e *api.Error, r *http.Request) *api.Error {
	if e.Code != api.CodeNotFound || os.Geteuid() == 0 || r == nil || !strings.HasPrefix(r.URL.Path, "/v1/vms/") || r.URL.Query().Has("path") {
		return e
	}
	if _, err := os.Lstat(rootState); err != nil {
		return e
	}
	return e.WithHint("root has machines of its own on this host: sudo banger ls")
}

// streamError recognises the error that may end a stream of JSON lines.
func streamError(line json.RawMessage) error {
	var body struct {
		Error *api.Error `json:"error"`
		ID    string     `json:"id"` // an operation has an error of its own
	}
	_ = json.Unmarshal(line, &body) // what is no object is no error either
	if body.Error == nil || body.ID != "" {
		return nil
	}
	return body.Error
}

// callError says why a call came to no answer.
func (c *Client) callError(ctx context.Context, err error) error {
	var e *api.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return api.Errorf(api.CodeTimeout, "the daemon did not answer in time: %w", ctx.Err()).WithHint("banger daemon logs")
	case ctx.Err() != nil:
		return api.Errorf(api.CodeCancelled, "cancelled: %w", ctx.Err())
	}
	return api.Errorf(api.CodeUnreachable, "lost the daemon during the call: %w", err).WithHint("banger daemon logs")
}

const restartHint = "banger daemon stop   (machines go on running; the next command starts the new daemon)"

// compareVersions tells the user, once, that the daemon is of another build.
func (c *Client) compareVersions(h http.Header) {
	v := h.Get(api.VersionHeader)
	if v == "" || v == api.Version || c.opts.Notice == nil {
		return
	}
	c.notice.Do(func() {
		c.opts.Notice("bangerd is version " + v + ", this is " + api.Version + ": " + restartHint)
	})
}
