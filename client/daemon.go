package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"banger/api"
)

// Info is what the daemon is and what it can do on this host.
func (c *Client) Info(ctx context.Context) (api.Info, error) {
	return call[api.Info](ctx, c, request{method: http.MethodGet, path: "/v1/info"})
}

// Doctor is the daemon's checks of this host.
func (c *Client) Doctor(ctx context.Context) ([]api.Check, error) {
	return call[[]api.Check](ctx, c, request{method: http.MethodGet, path: "/v1/doctor"})
}

// OpenAPI is the daemon's description of its API.
func (c *Client) OpenAPI(ctx context.Context) (json.RawMessage, error) {
	return call[json.RawMessage](ctx, c, request{method: http.MethodGet, path: "/v1/openapi.json"})
}

// StopDaemon asks the daemon to end; its VMs go on running. It returns when the
// daemon no longer answers. A daemon that does not run is an error of code unreachable.
func (c *Client) StopDaemon(ctx context.Context) error {
	return c.stopDaemon(ctx)
}

// Events hands over every event after the cursor (0: all that are kept), in order.
// With follow it goes on until ctx ends or fn fails, else it returns at the newest.
func (c *Client) Events(ctx context.Context, after int64, follow bool, fn func(api.Event) error) error {
	q := url.Values{"after": {strconv.FormatInt(after, 10)}, "follow": {strconv.FormatBool(follow)}}
	return lines(ctx, c, request{method: http.MethodGet, path: "/v1/events", query: q}, fn)
}

// Operations lists the operations that the daemon remembers, oldest first.
func (c *Client) Operations(ctx context.Context) ([]api.Operation, error) {
	return call[[]api.Operation](ctx, c, request{method: http.MethodGet, path: "/v1/operations"})
}

// Operation finds one by its id.
func (c *Client) Operation(ctx context.Context, id string) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodGet, path: objectPath("/v1/operations/", id)})
}

// CancelOperation asks an operation to stop and undo what it did. Watch it to see when it has.
func (c *Client) CancelOperation(ctx context.Context, id string) (api.Operation, error) {
	return call[api.Operation](ctx, c, request{method: http.MethodPost, path: objectPath("/v1/operations/", id, "cancel")})
}

// WatchOperation hands over the operation's state now and at each change, and returns
// its last one. An operation that failed is no error of this call: see its Error.
// The end of ctx ends the watching, not the operation.
func (c *Client) WatchOperation(ctx context.Context, id string, fn func(api.Operation) error) (api.Operation, error) {
	var last api.Operation
	err := lines(ctx, c, request{method: http.MethodGet, path: objectPath("/v1/operations/", id, "watch")}, func(o api.Operation) error {
		last = o
		if fn == nil {
			return nil
		}
		return fn(o)
	})
	if err == nil && last.State == api.OperationRunning {
		err = api.Errorf(api.CodeUnreachable, "the daemon ended while operation %s was running", id).WithHint("banger daemon logs")
	}
	return last, err
}
