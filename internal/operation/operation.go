// Package operation is a piece of work with named steps, undo, progress and
// cancel. It imports api only; template, image and vm do their long work in
// operations, server shows them.
package operation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"banger/api"
)

// ErrCancelled is the cause of the context of an operation that somebody cancelled.
var ErrCancelled = api.Errorf(api.CodeCancelled, "cancelled")

// Operation is one piece of work. Its methods are safe for concurrent use, but
// steps run one after the other.
type Operation struct {
	registry *Registry
	// id, kind and vmID never change.
	id, kind, vmID string

	cancel context.CancelCauseFunc
	done   chan struct{}

	// mu protects the following; registry.mu may be taken while it is held, never the other way round.
	mu      sync.Mutex
	state   api.Operation
	undo    []undoStep
	changed chan struct{} // closed and replaced at each change
}

type undoStep struct {
	name string
	fn   func(context.Context) error
}

// undoTime bounds each undo step: an undo must not hang the operation for ever.
const undoTime = 30 * time.Second

// ID names the operation.
func (o *Operation) ID() string { return o.id }

// Step runs fn as a named step, which may have steps of its own. When the operation is
// cancelled the next step does not begin.
func (o *Operation) Step(ctx context.Context, name string, fn func(context.Context) error) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	begin, mine := o.registry.now(), 0
	o.update(func(s *api.Operation) {
		mine = len(s.Steps)
		s.Steps = append(s.Steps, api.OperationStep{Name: name, StartedAt: begin})
	})
	o.Reached(name)
	err := fn(context.WithValue(ctx, stageKey{}, o))
	end := o.registry.now()
	o.update(func(s *api.Operation) {
		step := &s.Steps[mine]
		step.EndedAt, step.DurationMS = &end, end.Sub(begin).Milliseconds()
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// Undo pushes what takes back something just acquired; run in reverse order if the operation fails.
func (o *Operation) Undo(name string, fn func(context.Context) error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.undo = append(o.undo, undoStep{name, fn})
}

// Keep forgets all undo steps so far: what they would take back now belongs to something that lasts.
func (o *Operation) Keep() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.undo = nil
}

// Progress sets how far the running step is; total 0 means unknown.
func (o *Operation) Progress(done, total int64) {
	o.update(func(s *api.Operation) {
		if step := innermost(s); step != nil {
			step.Done, step.Total = done, total
		}
	})
}

// Detail says what the running step is doing just now.
func (o *Operation) Detail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	o.update(func(s *api.Operation) {
		if step := innermost(s); step != nil {
			step.Detail = text
		}
	})
	o.Reached(text)
}

// Reached names a point between two changes on the host, for tests of what a crash leaves there; users never see it.
func (o *Operation) Reached(point string) { o.registry.atPoint(o.kind + "/" + point) }

// innermost is the newest step that still runs; nil between steps.
func innermost(s *api.Operation) *api.OperationStep {
	for i := len(s.Steps) - 1; i >= 0; i-- {
		if s.Steps[i].EndedAt == nil {
			return &s.Steps[i]
		}
	}
	return nil
}

// Warn keeps a sentence for the user to see.
func (o *Operation) Warn(format string, args ...any) {
	o.update(func(s *api.Operation) { s.Warnings = append(s.Warnings, fmt.Sprintf(format, args...)) })
}

// SetResult names what was made.
func (o *Operation) SetResult(id string) {
	o.update(func(s *api.Operation) { s.Result = id })
}

// Cancel asks the operation to stop; its undo steps run. An operation that has ended is left as it is.
func (o *Operation) Cancel() { o.cancel(ErrCancelled) }

// Snapshot is a copy of its present state.
func (o *Operation) Snapshot() api.Operation {
	s, _ := o.Watch()
	return s
}

// Watch is a copy of its present state and a channel that is closed when that changes.
func (o *Operation) Watch() (api.Operation, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.state
	s.Steps, s.Warnings = slices.Clone(s.Steps), slices.Clone(s.Warnings)
	return s, o.changed
}

// Ended reports whether it has ended, its undo steps included.
func (o *Operation) Ended() bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

// Wait returns when the operation has ended, with its error.
func (o *Operation) Wait(ctx context.Context) (api.Operation, error) {
	select {
	case <-o.done:
	case <-ctx.Done():
		return o.Snapshot(), context.Cause(ctx)
	}
	s := o.Snapshot()
	if s.Error != nil {
		return s, s.Error
	}
	return s, nil
}

func (o *Operation) update(fn func(*api.Operation)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	fn(&o.state)
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *Operation) run(ctx context.Context, fn func(context.Context, *Operation) error) {
	defer close(o.done)
	defer o.cancel(nil)
	err := fn(ctx, o)
	if err == nil {
		o.Reached("end")
	}
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, ErrCancelled) {
			err = ErrCancelled
		}
		err = errors.Join(err, o.unwind(context.WithoutCancel(ctx)))
	}
	end := o.registry.now()
	o.update(func(s *api.Operation) {
		s.EndedAt = &end
		switch e := api.AsError(err); {
		case e == nil:
			s.State = api.OperationDone
		default:
			s.State = api.OperationFailed
			if e.Code == api.CodeCancelled {
				s.State = api.OperationCancelled
			}
			c := *e
			c.OperationID = s.ID
			s.Error = &c
		}
	})
	o.registry.ended(o, err)
}

// unwind runs every undo step, last first, and joins their errors.
func (o *Operation) unwind(ctx context.Context) error {
	o.mu.Lock()
	steps := o.undo
	o.undo = nil
	o.mu.Unlock()
	var errs []error
	for _, u := range slices.Backward(steps) {
		uctx, cancel := context.WithTimeout(ctx, undoTime)
		if err := u.fn(uctx); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", u.name, err))
		}
		cancel()
	}
	return errors.Join(errs...)
}
