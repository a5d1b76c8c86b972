package qmp

import "context"

// Cont lets the guest run.
func (c *Client) Cont(ctx context.Context) error { return c.Execute(ctx, "cont", nil, nil) }

// RunState is QEMU's RunState: running, prelaunch, paused, io-error, internal-error, shutdown, …
func (c *Client) RunState(ctx context.Context) (string, error) {
	var out struct {
		Status string `json:"status"`
	}
	err := c.Execute(ctx, "query-status", nil, &out)
	return out.Status, err
}

// BlockResize sets the size of a block node in bytes and tells the guest.
func (c *Client) BlockResize(ctx context.Context, node string, bytes int64) error {
	args := struct {
		Node string `json:"node-name"`
		Size int64  `json:"size"`
	}{node, bytes}
	return c.Execute(ctx, "block_resize", args, nil)
}

// BlockStats are bytes since QEMU's start.
type BlockStats struct{ ReadBytes, WriteBytes int64 }

// BlockStats are those of the nodes that devices use, by node name.
func (c *Client) BlockStats(ctx context.Context) (map[string]BlockStats, error) {
	var out []struct {
		Node  string `json:"node-name"`
		Stats struct {
			Read  int64 `json:"rd_bytes"`
			Write int64 `json:"wr_bytes"`
		} `json:"stats"`
	}
	if err := c.Execute(ctx, "query-blockstats", nil, &out); err != nil {
		return nil, err
	}
	stats := make(map[string]BlockStats, len(out))
	for _, o := range out {
		stats[o.Node] = BlockStats{ReadBytes: o.Stats.Read, WriteBytes: o.Stats.Write}
	}
	return stats, nil
}
