package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"banger/api"
)

// request is one call. Body, if set, is sent as JSON; Stream as it is.
type request struct {
	method string
	path   string // escaped
	query  url.Values
	body   any
	stream io.Reader
	header http.Header
}

// do sends r and returns an answer that is a success; any other becomes an *api.Error.
// The caller closes the answer's body.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	for again := false; ; again = true {
		resp, err := c.try(ctx, r)
		if r.stream != nil || !errors.Is(err, errStopping) && (again || !unheard(err)) {
			return resp, err
		}
		// The daemon has hidden its socket by now: the next try goes to the next daemon.
	}
}

// unheard reports that the daemon ended (kill -9, a moment ago) without reading the request: a unix
// socket says "reset" only while bytes of ours are unread, and "end of file" otherwise. Whatever
// the request was, it has not been carried out, and may be sent to the next daemon.
func unheard(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func (c *Client) try(ctx context.Context, r request) (*http.Response, error) {
	req, err := r.build(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.callError(ctx, err)
	}
	c.compareVersions(resp.Header)
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, c.answerError(resp)
	}
	return resp, nil
}

func (r request) build(ctx context.Context) (*http.Request, error) {
	body := r.stream
	if r.body != nil {
		data, err := json.Marshal(r.body)
		if err != nil {
			return nil, api.Errorf(api.CodeInternal, "cannot encode request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	if strings.Contains(r.path, "//") || strings.HasSuffix(r.path, "/") {
		return nil, api.Errorf(api.CodeInvalid, "a name or id is empty")
	}
	target := "http://banger" + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "cannot make request: %w", err)
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// call sends r and decodes the answer into a T.
func call[T any](ctx context.Context, c *Client, r request) (T, error) {
	var out T
	resp, err := c.do(ctx, r)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return out, c.callError(ctx, fmt.Errorf("cannot read the daemon's answer: %w", err))
	}
	return out, nil
}

// callNone sends r; the answer has no body.
func (c *Client) callNone(ctx context.Context, r request) error {
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// lines sends r and hands each JSON line of the answer to fn until it ends or fn fails.
func lines[T any](ctx context.Context, c *Client, r request, fn func(T) error) error {
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		// An error in the middle of a stream comes as the object that it would be otherwise.
		var line struct {
			raw json.RawMessage
		}
		switch err := dec.Decode(&line.raw); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return c.callError(ctx, err)
		}
		if e := streamError(line.raw); e != nil {
			return e
		}
		var v T
		if err := json.Unmarshal(line.raw, &v); err != nil {
			return c.callError(ctx, err)
		}
		if err := fn(v); err != nil {
			return err
		}
	}
}

// vmPath is the escaped path of a VM, or of something of it.
func vmPath(ref string, rest ...string) string { return objectPath("/v1/vms/", ref, rest...) }

func objectPath(kind, ref string, rest ...string) string {
	ref = url.PathEscape(ref)
	if ref == "." || ref == ".." {
		ref = strings.ReplaceAll(ref, ".", "%2E") // or the daemon's router takes it for a step up
	}
	return kind + strings.Join(append([]string{ref}, rest...), "/")
}
