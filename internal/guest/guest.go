// Package guest is the host's half of the conversation with the agent in a guest:
// typed calls over whatever connection the hypervisor gives. It imports frame, api and
// agentapi; vm, template and doctor may import it.
package guest

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"banger/api"
	"banger/api/agentapi"
)

// Client calls the agent of one guest. Each call takes a connection of its own and
// closes it, so that nothing is left over between calls. Safe for concurrent use.
//
// Errors that the agent returns keep their code. Otherwise the code is timeout or cancelled when ctx
// has ended, and not_ready when the agent cannot be reached or the connection broke.
type Client struct {
	dial func(ctx context.Context) (net.Conn, error)
}

// New makes a client that connects by dial (hypervisor.Instance.DialGuest).
func New(dial func(ctx context.Context) (net.Conn, error)) *Client { return &Client{dial: dial} }

// Health asks how the guest is, once. Where the agent does not run yet, dial decides how long to wait for it.
func (c *Client) Health(ctx context.Context) (agentapi.Health, error) {
	return get[agentapi.Health](ctx, c, "/health", nil)
}

// Grow makes the guest's file systems as large as their disks.
func (c *Client) Grow(ctx context.Context) (agentapi.Health, error) {
	return post[agentapi.Health](ctx, c, "/grow", nil)
}

// Sync returns when everything that was written in the guest is on its disks.
func (c *Client) Sync(ctx context.Context) error {
	_, err := post[struct{}](ctx, c, "/sync", nil)
	return err
}

// Shutdown asks the guest to end. It returns when the guest has synced; the end itself is
// the hypervisor's to report.
func (c *Client) Shutdown(ctx context.Context, s agentapi.Shutdown) error {
	_, err := post[struct{}](ctx, c, "/shutdown", s)
	return err
}

// Ports lists what listens in the guest; Reach is empty.
func (c *Client) Ports(ctx context.Context) ([]api.Port, error) {
	return get[[]api.Port](ctx, c, "/ports", nil)
}

// Stats are the guest's own figures.
func (c *Client) Stats(ctx context.Context) (agentapi.Stats, error) {
	return get[agentapi.Stats](ctx, c, "/stats", nil)
}

// Activity is what goes on in the guest that the host does not see.
func (c *Client) Activity(ctx context.Context) (agentapi.Activity, error) {
	return get[agentapi.Activity](ctx, c, "/activity", nil)
}

// Dial connects to a port on the guest's loopback; code unreachable where nothing listens. The
// connection has CloseWrite; a Read that returns io.ErrUnexpectedEOF means that it was cut off.
func (c *Client) Dial(ctx context.Context, port int) (HalfCloser, error) {
	conn, err := c.upgrade(ctx, http.MethodGet, "/dial", url.Values{"port": {strconv.Itoa(port)}}, api.UpgradeRaw)
	if err != nil {
		return nil, err
	}
	return newDuplex(conn), nil
}

// HalfCloser is a connection of which each direction ends by itself.
type HalfCloser interface {
	net.Conn
	CloseWrite() error
}

func get[T any](ctx context.Context, c *Client, path string, q url.Values) (T, error) {
	return call[T](ctx, c, request{method: http.MethodGet, path: path, query: q})
}

func post[T any](ctx context.Context, c *Client, path string, body any) (T, error) {
	return call[T](ctx, c, request{method: http.MethodPost, path: path, json: body})
}

// call makes a call whose answer is JSON.
func call[T any](ctx context.Context, c *Client, rq request) (T, error) {
	var out T
	resp, err := c.do(ctx, rq)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&out); err != nil {
		return out, resp.fail(err)
	}
	return out, nil
}

// maxAnswer bounds a JSON answer: the agent is the guest's, and the guest may be hostile.
const maxAnswer = 4 << 20
