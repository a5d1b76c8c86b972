package operation

import (
	"context"
	"time"

	"banger/api"
)

// stageKey is where Step keeps its operation in the context that it gives to its function.
type stageKey struct{}

// Stage ends a stretch of the innermost step that runs, and names it: it began with the step, or with the end of the stage
// before. Code below a step needs to know nothing of operations; outside of one it does nothing. Nobody who watches is woken.
func Stage(ctx context.Context, name string) {
	if o, ok := ctx.Value(stageKey{}).(*Operation); ok {
		o.Stage(name)
	}
}

// Measured names a time that was measured elsewhere, such as a VMM's own; it lies within the stage that ends next.
func Measured(ctx context.Context, name string, took time.Duration) {
	o, ok := ctx.Value(stageKey{}).(*Operation)
	if !ok {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := innermost(&o.state); s != nil {
		s.Stages = append(s.Stages, api.OperationStage{Name: name, DurationUS: took.Microseconds(), Within: true})
	}
}

// Warn is Operation.Warn of the step's operation.
func Warn(ctx context.Context, format string, args ...any) {
	if o, ok := ctx.Value(stageKey{}).(*Operation); ok {
		o.Warn(format, args...)
	}
}

// Stage is Stage where the operation is at hand. It is a point for tests as well.
func (o *Operation) Stage(name string) {
	o.endStage(name, o.registry.now())
	o.Reached(name)
}

func (o *Operation) endStage(name string, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := innermost(&o.state)
	if s == nil {
		return
	}
	begin := s.StartedAt
	for _, before := range s.Stages {
		if before.Within {
			continue
		}
		begin = begin.Add(time.Duration(before.DurationUS) * time.Microsecond)
	}
	s.Stages = append(s.Stages, api.OperationStage{Name: name, DurationUS: now.Sub(begin).Microseconds()})
}
