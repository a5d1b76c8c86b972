package client

import (
	"context"

	"banger/api"
)

func (c *Client) exec(ctx context.Context, ref string, spec api.ExecSpec, streams ExecIO) (api.ExecResult, error) {
	return api.ExecResult{}, api.Errorf(api.CodeUnsupported, "not built yet")
}
