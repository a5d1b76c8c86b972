package guest

import (
	"bytes"
	"context"
	"sync"
	"time"

	"banger/api/agentapi"
	"banger/internal/frame"
	"banger/internal/frame/brief"
	"banger/internal/frame/link"
)

// Introduction is a Personalise that a thawed guest is told with the host's greeting, as hypervisor.Frozen.First.
type Introduction struct {
	who  agentapi.Personalise
	host func() time.Time
	// ahead is how much later than it was the guest was told that it is.
	ahead time.Duration
}

// NewIntroduction says who the guest is; p.Time is the host's clock now.
func (l *Lag) NewIntroduction(p agentapi.Personalise) *Introduction {
	i := &Introduction{who: p, host: clockFrom(p.Time), ahead: l.guess()}
	i.who.Time = p.Time.Add(i.ahead)
	return i
}

// Message is its first frame; nil where it is longer than a greeting may be.
func (i *Introduction) Message() []byte {
	var b bytes.Buffer
	m := brief.AppendPersonalise(nil, i.who)
	if len(m) > frame.MaxPayload || frame.NewWriter(&b).Write(frame.Identity, m) != nil || b.Len() > link.MaxFirst {
		return nil
	}
	return b.Bytes()
}

// Introduced reads what the guest answered to i, as BeginPersonalise returns it.
func (c *Client) Introduced(l *Lag, i *Introduction, answer []byte) (h agentapi.Health, clock func(context.Context) error, err error) {
	f, err := frame.NewReader(bytes.NewReader(answer)).Read()
	if err == nil {
		h, err = healthIn(f)
	}
	if err != nil {
		return h, nil, err
	}
	if h.Now.IsZero() {
		return h, func(context.Context) error { return nil }, nil
	}
	o := offset{h.Now.Sub(i.host()), i.ahead}
	l.learn(i.ahead - o.low)
	return h, func(ctx context.Context) error { return c.mendClock(ctx, i.host, o) }, nil
}

// Lag is how long it takes from an introduction's making to its answer, but for what the guest does meanwhile, as the last ones have
// shown. A guest that is told a time that will have come when it hears of it needs no second setting of its clock, which costs an emulated one
// an eighth of its start. The zero value has seen none. Safe for concurrent use.
type Lag struct {
	mu   sync.Mutex // protects the following
	mean time.Duration
}

// guess is how late a guest will hear of the time: half of the lag, as long as a guest that hears of it at once is not off by
// more than may be.
func (l *Lag) guess() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return min(l.mean/2, mendSlack*3/4)
}

func (l *Lag) learn(took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	took = min(max(took, 0), 4*mendSlack) // a guest may say anything
	l.mean += (took - l.mean) / 2
}
