package qemu

import (
	"context"
	"errors"
	"strings"

	"banger/api"
	"banger/internal/hypervisor/qemu/qmp"
)

// jobPrefix begins the ids of our jobs.
const jobPrefix = "flatten-"

// job is work that QEMU does beside the guest. At most one is for a drive.
type job struct {
	id string
	// top and file are the node that the drive's blocks are in, and its file. QEMU puts a node of its own over it.
	top, file string
	pending   chan struct{} // closed when all is copied, and QEMU waits for our word
	gone      chan struct{} // closed when QEMU has forgotten it

	// The instance's mu protects the following; after gone nothing changes.
	err         error
	interrupted bool // for the sake of something more urgent
}

var errJobCancelled = errors.New("QEMU was told to leave it")

// addJob makes events of a job that is about to begin known.
func (i *instance) addJob(j *job) error {
	j.pending, j.gone = make(chan struct{}), make(chan struct{})
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.jobs[j.id] != nil {
		return api.Errorf(api.CodeConflict, "the drive is being flattened already")
	}
	if i.jobs == nil {
		i.jobs = map[string]*job{}
	}
	i.jobs[j.id] = j
	return nil
}

func (i *instance) forgetJob(j *job) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.jobs[j.id] == j {
		delete(i.jobs, j.id)
	}
}

// onJobStatus follows a job; docs/interop/qmp-intro and qapi/job.json of QEMU have the states.
func (i *instance) onJobStatus(e qmp.Event) {
	var d struct {
		ID     string `json:"id"`
		Status string `json:"status"`
	}
	if e.Decode(&d) != nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	j := i.jobs[d.ID]
	if j == nil {
		return
	}
	switch d.Status {
	case "pending":
		close(j.pending)
	case "null":
		delete(i.jobs, d.ID)
		close(j.gone)
	}
}

// onJobEnd keeps how a job ended, which QEMU says before it forgets it.
func (i *instance) onJobEnd(e qmp.Event) {
	var d struct {
		Device string `json:"device"` // the job's id
		Error  string `json:"error"`
	}
	if e.Decode(&d) != nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	j := i.jobs[d.Device]
	switch {
	case j == nil:
	case e.Name == "BLOCK_JOB_CANCELLED":
		j.err = errJobCancelled
	case d.Error != "":
		j.err = errors.New(d.Error)
	}
}

// endOf is how a job ended that is gone.
func (i *instance) endOf(j *job) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if j.err != nil && j.interrupted {
		return api.Errorf(api.CodeCancelled, "something more urgent came")
	}
	return j.err
}

// interruptJobs ends all jobs, for whoever has taken the turn and wants the disks to himself.
func (i *instance) interruptJobs(ctx context.Context) error {
	i.mu.Lock()
	var all []*job
	for _, j := range i.jobs {
		j.interrupted = true
		all = append(all, j)
	}
	i.mu.Unlock()
	var errs []error
	for _, j := range all {
		errs = append(errs, i.cancelJob(ctx, i.currentControl(), j))
	}
	return errors.Join(errs...)
}

// cancelJob returns when the job is gone.
func (i *instance) cancelJob(ctx context.Context, c *qmp.Client, j *job) error {
	if c == nil {
		return qmp.ErrClosed
	}
	err := c.CancelJob(ctx, j.id)
	var refused *qmp.Error
	if err != nil && !errors.As(err, &refused) {
		return err
	}
	// QEMU refuses what has ended by itself: then its last event is on its way, or has come.
	return j.awaitGone(ctx, c)
}

func (j *job) awaitGone(ctx context.Context, c *qmp.Client) error {
	select {
	case <-j.gone:
		return nil
	case <-c.Done():
		return qmp.ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// endLeftJobs cancels what an earlier daemon, or an earlier connection, has begun: nobody waits for it.
func (i *instance) endLeftJobs(ctx context.Context, c *qmp.Client) error {
	ids, err := c.Jobs(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if !strings.HasPrefix(id, jobPrefix) {
			continue
		}
		j := &job{id: id}
		i.mu.Lock()
		delete(i.jobs, id) // of the connection that broke
		i.mu.Unlock()
		if err := i.addJob(j); err != nil {
			return err
		}
		if err := c.CancelJob(ctx, id); err != nil {
			i.forgetJob(j)
			continue // it has ended by itself
		}
		if err := j.awaitGone(ctx, c); err != nil {
			return err
		}
	}
	return nil
}
