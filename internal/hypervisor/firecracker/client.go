package firecracker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// client speaks Firecracker's API: HTTP with JSON over a unix socket (its src/firecracker/swagger/firecracker.yaml).
type client struct{ http *http.Client }

// newClient connects by dial, when it has something to say.
func newClient(dial func(ctx context.Context) (net.Conn, error)) *client {
	return &client{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}}
}

// fault is Firecracker's refusal of a request.
type fault struct {
	Status  int    `json:"-"`
	Message string `json:"fault_message"`
}

func (f *fault) Error() string {
	return "Firecracker: " + strings.Join(strings.Fields(strings.ToValidUTF8(f.Message, "?")), " ")
}

// maxAnswer bounds what is read of an answer; the largest, of /vm/config, has some KB.
const maxAnswer = 1 << 20

// call makes one request; in and out may be nil.
func (c *client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://firecracker"+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%s %s: %w", method, path, errors.Unwrap(err)) // without the made-up URL
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if res.StatusCode/100 != 2 {
		f := &fault{Status: res.StatusCode}
		if json.Unmarshal(b, f) != nil || f.Message == "" {
			f.Message = fmt.Sprintf("%s %s: %s", method, path, res.Status)
		}
		return f
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

func (c *client) put(ctx context.Context, path string, in any) error {
	return c.call(ctx, http.MethodPut, path, in, nil)
}

func (c *client) patch(ctx context.Context, path string, in any) error {
	return c.call(ctx, http.MethodPatch, path, in, nil)
}

func (c *client) close() { c.http.CloseIdleConnections() }
