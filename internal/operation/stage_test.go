package operation

import (
	"context"
	"testing"
	"time"
)

func TestStagesFollowOneAnother(t *testing.T) {
	clock := time.Unix(1000, 0)
	r := registry(t)
	r.now = func() time.Time { return clock }
	pass := func(d time.Duration) { clock = clock.Add(d) }
	Stage(t.Context(), "outside of any operation")
	op := r.Start("vm.start", "vm1", func(ctx context.Context, op *Operation) error {
		return op.Step(ctx, "thaw", func(ctx context.Context) error {
			pass(3 * time.Millisecond)
			Stage(ctx, "spawn")
			pass(2500 * time.Microsecond)
			Measured(ctx, "stood still", 2*time.Millisecond)
			Stage(ctx, "freeze")
			pass(time.Second)
			return op.Step(ctx, "inner", func(ctx context.Context) error {
				pass(time.Millisecond)
				Stage(ctx, "its own")
				return nil
			})
		})
	})
	s, err := op.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, inner := s.Steps[0].Stages, s.Steps[1].Stages
	if len(got) != 3 || got[0].DurationUS != 3000 || got[1].DurationUS != 2000 || !got[1].Within || got[2].DurationUS != 2500 || got[2].Within {
		t.Errorf("stages are %+v", got)
	}
	if len(inner) != 1 || inner[0].DurationUS != 1000 {
		t.Errorf("the inner step's are %+v", inner)
	}
}
