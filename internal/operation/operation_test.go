package operation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger/api"
)

func registry(t *testing.T) *Registry {
	t.Helper()
	var n atomic.Int64
	r := NewRegistry(time.Now, func() string { return fmt.Sprintf("op%d", n.Add(1)) }, slog.New(slog.NewTextHandler(io.Discard, nil)))
	t.Cleanup(r.Close)
	return r
}

func TestFailureUnwindsInReverseAndRunsEveryUndo(t *testing.T) {
	var ran []string
	o := registry(t).Start("vm.start", "vm1", func(ctx context.Context, op *Operation) error {
		for _, name := range []string{"a", "b", "c"} {
			if err := op.Step(ctx, name, func(context.Context) error {
				op.Undo(name, func(context.Context) error {
					ran = append(ran, name)
					if name == "b" {
						return errors.New("b resists")
					}
					return nil
				})
				return nil
			}); err != nil {
				return err
			}
		}
		return op.Step(ctx, "d", func(context.Context) error { return api.Errorf(api.CodeExhausted, "disk full") })
	})
	s, err := o.Wait(t.Context())
	if got := api.AsError(err); got.Code != api.CodeExhausted || got.OperationID != "op1" || !strings.Contains(got.Message, "disk full") || !strings.Contains(got.Message, "b resists") {
		t.Errorf("error is %+v", got)
	}
	if !slices.Equal(ran, []string{"c", "b", "a"}) {
		t.Errorf("undone: %v", ran)
	}
	if s.State != api.OperationFailed || len(s.Steps) != 4 || s.Steps[3].EndedAt == nil {
		t.Errorf("state is %+v", s)
	}
}

func TestCancelUndoesAndSaysSo(t *testing.T) {
	begun, undone := make(chan struct{}), false
	o := registry(t).Start("image.build", "", func(ctx context.Context, op *Operation) error {
		op.Undo("x", func(ctx context.Context) error { undone = true; return ctx.Err() })
		return op.Step(ctx, "long", func(ctx context.Context) error {
			close(begun)
			<-ctx.Done()
			return fmt.Errorf("interrupted: %w", ctx.Err())
		})
	})
	<-begun
	o.Cancel()
	s, err := o.Wait(t.Context())
	if s.State != api.OperationCancelled || api.CodeOf(err) != api.CodeCancelled || !undone {
		t.Errorf("state %s, error %v, undone %v", s.State, err, undone)
	}
}

func TestKeptThingsStay(t *testing.T) {
	undone := false
	o := registry(t).Start("vm.start", "vm1", func(_ context.Context, op *Operation) error {
		op.Undo("x", func(context.Context) error { undone = true; return nil })
		op.Keep()
		return errors.New("late")
	})
	if _, err := o.Wait(t.Context()); err == nil || undone {
		t.Errorf("error %v, undone %v", err, undone)
	}
}

func TestWatchSeesEveryEnd(t *testing.T) {
	step := make(chan struct{})
	o := registry(t).Start("vm.start", "vm1", func(ctx context.Context, op *Operation) error {
		return op.Step(ctx, "boot", func(context.Context) error { <-step; op.Progress(5, 10); return nil })
	})
	close(step)
	for {
		s, changed := o.Watch()
		if s.State != api.OperationRunning {
			if s.Steps[0].Done != 5 || s.Steps[0].Total != 10 {
				t.Errorf("step is %+v", s.Steps[0])
			}
			return
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatal("no change came")
		}
	}
}

func TestOldOperationsAreForgottenButNotRunningOnes(t *testing.T) {
	r := registry(t)
	hold := make(chan struct{})
	first := r.Start("vm.start", "vm1", func(context.Context, *Operation) error { <-hold; return nil })
	for range keep + 50 {
		if _, err := r.Start("x", "", func(context.Context, *Operation) error { return nil }).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	list := r.List()
	if len(list) > keep+1 || list[0].ID != first.ID() {
		t.Errorf("%d remembered, the first is %s", len(list), list[0].ID)
	}
	close(hold)
}

func TestPointsAreToldInOrder(t *testing.T) {
	r := registry(t)
	var told []string
	r.AtPoints(func(point string) { told = append(told, point) })
	o := r.Start("vm.suspend", "vm1", func(ctx context.Context, op *Operation) error {
		return op.Step(ctx, "freeze", func(context.Context) error {
			op.Detail("copying %d", 1)
			op.Reached("frozen")
			return nil
		})
	})
	if _, err := o.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"vm.suspend/freeze", "vm.suspend/copying 1", "vm.suspend/frozen", "vm.suspend/end"}
	if !slices.Equal(told, want) {
		t.Errorf("points: %v", told)
	}
}
