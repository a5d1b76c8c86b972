package guest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"banger/api"
	"banger/internal/frame"
)

// request is one call. At most one of json and body is set.
type request struct {
	method, path string
	query        url.Values
	json         any
	body         io.Reader
	upgrade      string // token; the connection is kept
}

// source is a request's body that remembers why it could not be read.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// response is an answer with its connection, which ends with Body.
type response struct {
	*http.Response
	conn net.Conn
	in   *bufio.Reader
	ctx  context.Context
	stop func() bool
	sent <-chan error
}

// do makes the call over a connection of its own. http.Transport is not used since its dials
// outlive the context of the call that wanted them. The caller closes Body.
func (c *Client) do(ctx context.Context, rq request) (*response, error) {
	if rq.body != nil {
		rq.body = &source{r: rq.body}
	}
	hr, err := rq.build(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, unreachable(ctx, err)
	}
	sent := make(chan error, 1)
	r := &response{conn: conn, ctx: ctx, in: bufio.NewReaderSize(conn, 32<<10), sent: sent}
	r.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	go func() {
		err := hr.Write(conn)
		if src, ok := rq.body.(*source); ok && src.err != nil {
			err = src.err
			sent <- err
			_ = conn.Close() // the agent must not take the part for the whole
			return
		}
		sent <- err
	}()
	r.Response, err = http.ReadResponse(r.in, hr) //nolint:bodyclose // wrapped below; whoever gets r closes it
	if err != nil {
		return nil, r.fail(err)
	}
	r.Body = &body{r: r, rc: r.Body}
	want := http.StatusOK
	if rq.upgrade != "" {
		want = http.StatusSwitchingProtocols
	}
	if r.StatusCode == want {
		return r, nil
	}
	defer r.Body.Close()
	return nil, r.refusal()
}

func (rq request) build(ctx context.Context) (*http.Request, error) {
	u := url.URL{Scheme: "http", Host: "guest", Path: rq.path, RawQuery: rq.query.Encode()}
	rd := rq.body
	if rq.json != nil {
		b, err := json.Marshal(rq.json)
		if err != nil {
			return nil, err
		}
		rd = bytes.NewReader(b)
	} else if rd == nil && rq.method == http.MethodPost && rq.upgrade == "" {
		rd = bytes.NewReader([]byte("{}"))
	}
	hr, err := http.NewRequestWithContext(ctx, rq.method, u.String(), rd)
	if err != nil {
		return nil, err
	}
	if rq.upgrade != "" {
		hr.Header.Set("Connection", "Upgrade")
		hr.Header.Set("Upgrade", rq.upgrade)
	} else {
		hr.Close = true
	}
	return hr, nil
}

// refusal reads the error that the agent answers with.
func (r *response) refusal() error {
	var b api.ErrorBody
	if err := json.NewDecoder(io.LimitReader(r.Body, maxAnswer)).Decode(&b); err != nil || b.Error.Code == "" {
		if r.ctx.Err() != nil {
			return r.fail(r.ctx.Err())
		}
		return api.Errorf(api.CodeInternal, "the guest's agent answered %s", r.Status)
	}
	return &b.Error
}

// fail closes the connection and tells why the conversation broke off.
func (r *response) fail(err error) error {
	r.close()
	select {
	case why := <-r.sent:
		// The reader of a body knows better than the connection that was closed for its sake.
		if why != nil && !errors.Is(why, net.ErrClosed) && !errors.Is(why, io.ErrClosedPipe) {
			err = why
		}
	default:
	}
	return unreachable(r.ctx, err)
}

func (r *response) close() {
	r.stop()
	_ = r.conn.Close()
}

// unreachable gives an error of the connection its code.
func unreachable(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return api.Errorf(api.CodeTimeout, "the guest's agent did not answer in time: %w", context.Cause(ctx))
	case ctx.Err() != nil:
		return api.Errorf(api.CodeCancelled, "the call to the guest was cancelled: %w", context.Cause(ctx))
	}
	var e *api.Error
	if errors.As(err, &e) {
		return err
	}
	return api.Errorf(api.CodeNotReady, "the guest's agent does not answer: %w", err)
}

// body is an answer's body whose Close ends the connection too.
type body struct {
	r  *response
	rc io.ReadCloser
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.rc.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = unreachable(b.r.ctx, err)
	}
	return n, err
}

// Close does not read the rest: the connection goes.
func (b *body) Close() error {
	b.r.close()
	return nil
}

// upgrade makes a call whose connection is kept. It then belongs to the caller, and the
// end of ctx no longer closes it.
func (c *Client) upgrade(ctx context.Context, method, path string, q url.Values, token string) (*upgraded, error) {
	conn, _, err := c.upgradeHeader(ctx, method, path, q, token)
	return conn, err
}

func (c *Client) upgradeHeader(ctx context.Context, method, path string, q url.Values, token string) (*upgraded, http.Header, error) {
	r, err := c.do(ctx, request{method: method, path: path, query: q, upgrade: token})
	if err != nil {
		return nil, nil, err
	}
	if !r.stop() {
		return nil, nil, r.fail(ctx.Err())
	}
	return &upgraded{Conn: r.conn, in: r.in}, r.Header, nil
}

// upgraded is a connection of which some has been read ahead.
type upgraded struct {
	net.Conn
	in *bufio.Reader
}

func (u *upgraded) Read(p []byte) (int, error) { return u.in.Read(p) }

// CloseWrite is passed on where the connection can do it.
func (u *upgraded) CloseWrite() error {
	if h, ok := u.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return fmt.Errorf("cannot end one direction of this connection: %w", errors.ErrUnsupported)
}

func newDuplex(u *upgraded) *frame.Duplex { return frame.NewDuplex(u.Conn, u.in) }
