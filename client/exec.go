package client

import (
	"context"
	"io"
	"net/http"

	"banger/api"
)

// ExecWait runs a command and answers when it has ended, with its output.
func (c *Client) ExecWait(ctx context.Context, ref string, spec api.ExecSpec) (api.ExecResult, error) {
	return call[api.ExecResult](ctx, c, request{
		method: http.MethodPost, path: vmPath(ref, "exec"), body: spec,
		header: http.Header{"Accept": {"application/json"}},
	})
}

// ExecIO is what an Exec is connected to.
type ExecIO struct {
	// Stdin is read only where ExecSpec.Stdin is set; its end is passed on. A Read that
	// blocks for ever is left behind when the command has ended.
	Stdin io.Reader
	// Stdout and Stderr may be nil: thrown away. With a terminal all comes on Stdout.
	Stdout, Stderr io.Writer
	// Control is passed on as it comes: resize (Rows, Cols) and signal (Signal). May be nil; never closed by us.
	Control <-chan api.Control
}

// Exec runs a command with live streams until it has ended. Of the result only ExitCode,
// Signal, TimedOut and DurationMS are set. The end of ctx disconnects, which ends the command.
func (c *Client) Exec(ctx context.Context, ref string, spec api.ExecSpec, streams ExecIO) (api.ExecResult, error) {
	return c.exec(ctx, ref, spec, streams)
}
