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
func (c *Client) Release(ctx context.Context, r agentapi.Release) error {
	_, err := post[agentapi.Health](ctx, c, "/release", r)
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
	h, clock, err := c.BeginPersonalise(ctx, p)
	if err != nil {
		return h, err
	}
	return h, clock(ctx)
}

// BeginPersonalise is Personalise but for the clock's second setting, if it needs one: that is left to the caller.
func (c *Client) BeginPersonalise(ctx context.Context, p agentapi.Personalise) (h agentapi.Health, clock func(context.Context) error, err error) {
	host := clockFrom(p.Time)
	h, err = c.identify(ctx, p)
	if err != nil || p.Time.IsZero() || h.Now.IsZero() {
		return h, func(context.Context) error { return nil }, err
	}
	// It was given a time that had passed by as much as the request took: it cannot be ahead.
	o := offset{h.Now.Sub(host()), 0}
	return h, func(ctx context.Context) error { return c.mendClock(ctx, host, o) }, nil
}

// SetClock compares the guest's clock with the host's, which is now, and corrects it gently when it is
// certain that it is off.
func (c *Client) SetClock(ctx context.Context, now time.Time) error {
	host := clockFrom(now)
	o, err := c.moveClock(ctx, host, agentapi.Clock{})
	if err != nil || o.low < clockSlack && o.high > -clockSlack {
		return err
	}
	_, err = c.moveClock(ctx, host, agentapi.Clock{AdjustUS: -o.middle().Microseconds()})
	return err
}

// StepClock sets the guest's clock right at once: for a guest that has stood still. now is the host's.
func (c *Client) StepClock(ctx context.Context, now time.Time) error {
	host := clockFrom(now)
	o, err := c.moveClock(ctx, host, agentapi.Clock{})
	if err != nil {
		return err
	}
	return c.mendClock(ctx, host, o)
}
