package qmp

import (
	"context"
	"fmt"
)

// Stream is a job that copies into a node what it does not hold itself.
type Stream struct {
	Job  string `json:"job-id"`
	Node string `json:"device"`
	// Base is the node that is not copied but lies directly below in the end; empty for none.
	Base string `json:"base-node,omitempty"`
	// BackingFile is what the node's header then says of it.
	BackingFile string `json:"backing-file,omitempty"`
	// Filter names the node that QEMU puts on top while it works.
	Filter string `json:"filter-node-name"`
	// Speed is in bytes a second; 0 is without limit.
	Speed int64 `json:"speed"`
	// AutoFinalize false: the job waits, when all is copied, for FinalizeJob.
	AutoFinalize bool `json:"auto-finalize"`
}

// BeginStream starts the job. JOB_STATUS_CHANGE events tell how it goes.
func (c *Client) BeginStream(s Stream) *Pending { return c.Begin("block-stream", s) }

// FinalizeJob lets a job that is pending do its last, short part.
func (c *Client) FinalizeJob(ctx context.Context, id string) error {
	return c.Execute(ctx, "job-finalize", jobID{id}, nil)
}

// CancelJob ends a job, which undoes what it has not finished.
func (c *Client) CancelJob(ctx context.Context, id string) error {
	return c.Execute(ctx, "job-cancel", jobID{id}, nil)
}

type jobID struct {
	ID string `json:"id"`
}

// Jobs are the ids of all jobs.
func (c *Client) Jobs(ctx context.Context) ([]string, error) {
	var out []jobID
	if err := c.Execute(ctx, "query-jobs", nil, &out); err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(out))
	for _, o := range out {
		ids = append(ids, o.ID)
	}
	return ids, nil
}

// Flush writes what QEMU holds of a node to its file, and has the host put that on disk.
func (c *Client) Flush(ctx context.Context, node string) error {
	var said string
	err := c.Execute(ctx, "human-monitor-command", struct {
		Line string `json:"command-line"`
	}{fmt.Sprintf("qemu-io %s flush", node)}, &said)
	if err == nil && said != "" {
		err = fmt.Errorf("cannot flush %s: %s", node, said)
	}
	return err
}
