package vmm

import "context"

// Turn keeps freezes, pauses, resumes and changes of one guest apart: one has its turn, the others wait for it to end.
type Turn struct {
	life  context.Context
	taken chan struct{}
}

// NewTurn makes the turn of a guest whose life this is.
func NewTurn(life context.Context) Turn { return Turn{life, make(chan struct{}, 1)} }

// Take waits for the turn, at the longest until ctx or the guest's life ends; the error is the cause of that.
func (t Turn) Take(ctx context.Context) error {
	select {
	case t.taken <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.life.Done():
		return context.Cause(t.life)
	}
}

// End ends a turn that was taken.
func (t Turn) End() { <-t.taken }
