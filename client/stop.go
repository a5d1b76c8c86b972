package client

import (
	"context"
	"net/http"
	"time"

	"banger/api"
)

func (c *Client) stopDaemon(ctx context.Context) error {
	conn, err := c.dial(ctx)
	if notRunning(err) {
		return api.Errorf(api.CodeUnreachable, "bangerd is not running")
	}
	if err != nil {
		return err
	}
	conn.Close()
	if err := c.callNone(ctx, request{method: http.MethodPost, path: "/v1/daemon/stop"}); err != nil {
		return err
	}
	// It has ended for us when nobody listens any more; what it still does is waited for by the lock.
	for {
		conn, err := c.dial(ctx)
		if notRunning(err) {
			return nil
		}
		if err != nil {
			return err
		}
		conn.Close()
		if err := awaitSocket(ctx, c.opts.Socket, 100*time.Millisecond); err != nil {
			return c.callError(ctx, err)
		}
	}
}
