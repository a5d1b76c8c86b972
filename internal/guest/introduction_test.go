package guest_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/frame/link"
	"banger/internal/guest"
)

// introduce greets the agent as a thawed one, and tells it p.
func introduce(t *testing.T, a *agent, l *guest.Lag, epoch uint64, p agentapi.Personalise) (agentapi.Health, error) {
	t.Helper()
	_ = a.session.Close()
	p.Time = time.Now()
	i := l.NewIntroduction(p)
	a.greet(t, epoch, func(ctx context.Context, conn io.ReadWriteCloser, epoch uint64) (*link.Session, error) {
		return link.DialThawed(ctx, conn, epoch, i.Message())
	})
	answer, err := a.session.Answer(within(t))
	if err != nil {
		t.Fatal(err)
	}
	h, clock, err := a.Introduced(l, i, answer)
	if err != nil {
		return h, err
	}
	return h, clock(within(t))
}

func TestIntroduction(t *testing.T) {
	t.Parallel()
	a := start(t, nil)
	a.system.health = agentapi.Health{Ready: true, BootID: "b"}
	var lag guest.Lag
	h, err := introduce(t, a, &lag, 2, agentapi.Personalise{Hostname: "x", MachineID: "m"})
	if err != nil || !h.Ready || h.BootID != "b" {
		t.Fatalf("%+v, %v", h, err)
	}
	if p := a.system.personal; p == nil || p.Hostname != "x" || p.MachineID != "m" {
		t.Errorf("it was told %+v", p)
	}
	if err := a.Sync(within(t)); err != nil {
		t.Error(err)
	}
	a.system.refuse = api.Errorf(api.CodeInvalid, "no")
	if _, err := introduce(t, a, &lag, 3, agentapi.Personalise{Hostname: "y"}); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a refusal came as %v", err)
	}
	if m := lag.NewIntroduction(agentapi.Personalise{Hostname: strings.Repeat("x", link.MaxFirst)}).Message(); m != nil {
		t.Errorf("a greeting of %d bytes", len(m))
	}
}

// TestIntroductionSetsTheClock: what the last introductions took is allowed for, and what they took too long is mended.
func TestIntroductionSetsTheClock(t *testing.T) {
	t.Parallel()
	for _, slow := range []time.Duration{0, 45 * time.Millisecond, 150 * time.Millisecond} {
		a := aClock(t, time.Hour, slow)
		var lag guest.Lag
		once := 0
		for epoch := range uint64(6) {
			a.system.slow, a.system.clock, a.system.behind = slow, nil, time.Hour
			if _, err := introduce(t, a, &lag, epoch+2, agentapi.Personalise{}); err != nil {
				t.Fatal(err)
			}
			right(t, a)
			if len(a.system.clock) == 0 {
				once++
			}
		}
		if (once > 0) != (slow < 100*time.Millisecond) { // a busy host may be slower, now and then
			t.Errorf("with a lag of %v, setting the clock once was enough %d times of 6", slow, once)
		}
	}
}
