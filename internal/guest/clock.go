package guest

import (
	"context"
	"time"

	"banger/api/agentapi"
)

// How far a guest's clock may seem to be off before anything is done about it. After it was set, at most mendSlack, of the 50 ms that
// banger promises. In a guest that just runs, clockSlack.
const (
	mendSlack  = 35 * time.Millisecond
	clockSlack = 10 * time.Millisecond
	mendTries  = 6
)

// clockFrom is the host's clock, which was now when it was called.
func clockFrom(now time.Time) func() time.Time {
	begin := time.Now()
	return func() time.Time { return now.Add(time.Since(begin)) }
}

// offset is how far the guest's clock is ahead of the host's, at least and at most: it was read at some time between
// a question and its answer.
type offset struct{ low, high time.Duration }

func (o offset) middle() time.Duration { return (o.low + o.high) / 2 }

// worst is the most by which the clock may be off.
func (o offset) worst() time.Duration { return max(-o.low, o.high) }

// moveClock moves the guest's clock, by nothing perhaps, and tells where it is then.
func (c *Client) moveClock(ctx context.Context, host func() time.Time, move agentapi.Clock) (offset, error) {
	asked := host()
	h, err := post[agentapi.Health](ctx, c, "/clock", move)
	if err != nil {
		return offset{}, err
	}
	return offset{h.Now.Sub(host()), h.Now.Sub(asked)}, nil
}

// mendClock sets the guest's clock right at once, as far as that can be known: on a busy machine each question takes a
// while, and what all answers together leave possible is better than the best of them.
func (c *Client) mendClock(ctx context.Context, host func() time.Time, o offset) error {
	for range mendTries {
		if o.worst() < mendSlack {
			return nil
		}
		by := -o.middle()
		next, err := c.moveClock(ctx, host, agentapi.Clock{AdjustUS: by.Microseconds(), Step: true})
		if err != nil {
			return err
		}
		o = offset{max(o.low+by, next.low), min(o.high+by, next.high)}
		if o.low > o.high { // somebody else has moved it
			o = next
		}
	}
	return nil
}
