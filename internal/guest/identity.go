package guest

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"banger/api"
	"banger/api/agentapi"
)

// readyWait is how long one question after readiness waits for an answer. readyEvery is waited before the next
// one where there was none, or where the agent, an older one, does not wait.
const (
	readyWait  = 30 * time.Second
	readyEvery = 100 * time.Millisecond
)

// WaitReady returns as soon as the guest is ready. When ctx ends first the error has code not_ready and
// says what the guest was waiting for.
func (c *Client) WaitReady(ctx context.Context) (agentapi.Health, error) {
	var q url.Values
	waiting, known := "its agent", ""
	for {
		asked := time.Now()
		h, err := get[agentapi.Health](ctx, c, "/health", q)
		if err == nil && h.Ready {
			return h, nil
		}
		pause := readyEvery - time.Since(asked)
		if err == nil && (q == nil || h.Waiting != known) {
			pause = 0
		}
		if err == nil && h.Waiting != "" {
			waiting = h.Waiting
		}
		if err == nil {
			known = h.Waiting
			q = url.Values{
				agentapi.HealthWaitParam:    {strconv.FormatInt(readyWait.Milliseconds(), 10)},
				agentapi.HealthWaitingParam: {known},
			}
		}
		select {
		case <-ctx.Done():
			return h, api.Errorf(api.CodeNotReady, "the guest is not ready: it waits for %s (%w)", waiting, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// Release lets the boot of a guest that is to be a template go on without an identity. The error has code
// conflict when the guest was personalised, or went on by itself.
func (c *Client) Release(ctx context.Context) error {
	_, err := post[agentapi.Health](ctx, c, "/release", nil)
	return err
}

// Quiesce makes a released guest ready to be frozen. Nothing may be called after it.
func (c *Client) Quiesce(ctx context.Context) error {
	_, err := post[agentapi.Health](ctx, c, "/quiesce", nil)
	return err
}

// Personalise makes the guest the one machine that it is. p.Time is the host's clock now; where the guest was slow to
// take it, its clock is set once more.
func (c *Client) Personalise(ctx context.Context, p agentapi.Personalise) (agentapi.Health, error) {
	sent := time.Now()
	h, err := post[agentapi.Health](ctx, c, "/personalise", p)
	if err != nil || p.Time.IsZero() {
		return h, err
	}
	return h, c.mendClock(ctx, h, func() time.Time { return p.Time.Add(time.Since(sent)) })
}

// clockSlack is how far a guest's clock may seem to be off after it was set: much more than an answer takes on an idle
// machine, much less than the 50 ms that banger promises. clockTries are made on a machine that has a lot to do.
const (
	clockSlack = 15 * time.Millisecond
	clockTries = 3
)

// mendClock steps the guest's clock until it answers with a clock that is nearly right: what it was told is
// old by the time that the request took.
func (c *Client) mendClock(ctx context.Context, h agentapi.Health, now func() time.Time) (err error) {
	for range clockTries {
		if h.Now.IsZero() || now().Sub(h.Now).Abs() < clockSlack {
			return nil
		}
		if h, err = post[agentapi.Health](ctx, c, "/clock", agentapi.Clock{Time: now(), Step: true}); err != nil {
			return err
		}
	}
	return nil
}

// SetClock sets the guest's clock to now, gently when it is nearly right.
func (c *Client) SetClock(ctx context.Context, now time.Time) error {
	_, err := post[agentapi.Health](ctx, c, "/clock", agentapi.Clock{Time: now})
	return err
}

// StepClock sets the guest's clock to now at once: for a guest that has stood still.
func (c *Client) StepClock(ctx context.Context, now time.Time) error {
	sent := time.Now()
	h, err := post[agentapi.Health](ctx, c, "/clock", agentapi.Clock{Time: now, Step: true})
	if err != nil {
		return err
	}
	return c.mendClock(ctx, h, func() time.Time { return now.Add(time.Since(sent)) })
}
