package guest_test

import (
	"testing"
	"time"

	"banger/api/agentapi"
	"banger/internal/agent/serve"
)

// aClock is an agent that is as far behind, and as slow to hear, as is wanted.
func aClock(t *testing.T, behind, slow time.Duration) *agent {
	t.Helper()
	var a *agent
	a = start(t, func(o *serve.Options) { o.Now = func() time.Time { return a.system.now() } })
	a.system.behind, a.system.slow = behind, slow
	return a
}

// right fails when the guest's clock is off.
func right(t *testing.T, a *agent) {
	t.Helper()
	if off := time.Since(a.system.now()).Abs(); off > 40*time.Millisecond {
		t.Errorf("the clock is off by %v after %+v", off, a.system.clock)
	}
}

func TestPersonaliseSetsTheClock(t *testing.T) {
	t.Parallel()
	for _, slow := range []time.Duration{0, 45 * time.Millisecond, 100 * time.Millisecond} {
		a := aClock(t, time.Hour, slow)
		if _, err := a.Personalise(within(t), agentapi.Personalise{Time: time.Now()}); err != nil {
			t.Fatal(err)
		}
		right(t, a)
		if slow > 0 && len(a.system.clock) == 0 {
			t.Error("it was not looked at again")
		}
	}
}

func TestStepClock(t *testing.T) {
	t.Parallel()
	for _, behind := range []time.Duration{200 * time.Millisecond, -200 * time.Millisecond, time.Hour} {
		a := aClock(t, behind, 20*time.Millisecond)
		if err := a.StepClock(within(t), time.Now()); err != nil {
			t.Fatal(err)
		}
		right(t, a)
	}
}

func TestSetClockIsGentle(t *testing.T) {
	t.Parallel()
	// A request that takes long is no reason to believe that the clock is wrong.
	a := aClock(t, 0, 200*time.Millisecond)
	if err := a.SetClock(within(t), time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, c := range a.system.clock {
		if c.AdjustUS != 0 {
			t.Errorf("a clock that is right was moved: %+v", c)
		}
	}
	a = aClock(t, 300*time.Millisecond, 0)
	if err := a.SetClock(within(t), time.Now()); err != nil {
		t.Fatal(err)
	}
	last := a.system.clock[len(a.system.clock)-1]
	if by := time.Duration(last.AdjustUS) * time.Microsecond; last.Step || by < 250*time.Millisecond || by > 350*time.Millisecond {
		t.Errorf("a clock that is behind was moved: %+v", a.system.clock)
	}
}
