package vm

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"banger/internal/operation"
)

func TestUses(t *testing.T) {
	t.Parallel()
	var u uses
	now := func() time.Time { return time.Unix(50, 0) }
	end, waited, err := u.begin(t.Context(), "a", now)
	if err != nil || waited {
		t.Fatal(waited, err)
	}
	if open, last := u.look("a"); open != 1 || !last.IsZero() {
		t.Errorf("%d uses, the last ended at %v", open, last)
	}
	if _, ok := u.freeze("a", true); ok {
		t.Error("frozen while it is used")
	}
	end()
	end()
	if open, last := u.look("a"); open != 0 || !last.Equal(now()) {
		t.Errorf("%d uses, the last ended at %v", open, last)
	}
	if open, _ := u.look("b"); open != 0 {
		t.Errorf("%d uses of another VM", open)
	}
}

// TestUseWaitsForTheFreeze: who comes while the guest is being frozen waits for what becomes of it, or goes away.
func TestUseWaitsForTheFreeze(t *testing.T) {
	t.Parallel()
	var u uses
	thawed, ok := u.freeze("a", true)
	if !ok {
		t.Fatal("refused where there is no use")
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := u.begin(gone, "a", time.Now); !errors.Is(err, context.Canceled) {
		t.Errorf("who has gone got %v", err)
	}
	begun := make(chan bool)
	go func() {
		end, waited, err := u.begin(t.Context(), "a", time.Now)
		if err != nil {
			t.Error(err)
		}
		begun <- waited
		end()
		close(begun)
	}()
	for open := 0; open == 0; open, _ = u.look("a") {
		time.Sleep(time.Millisecond)
	}
	select {
	case <-begun:
		t.Error("begun while the guest is being frozen")
	default:
	}
	thawed()
	if !<-begun {
		t.Error("it does not know that it waited")
	}
	<-begun
	if thawed, ok = u.freeze("a", true); !ok {
		t.Fatal("a use is left over")
	}
	thawed()
}

// TestWakeOnce: while a start is under way nobody begins another.
func TestWakeOnce(t *testing.T) {
	t.Parallel()
	var u uses
	n := 0
	registry := operation.NewRegistry(time.Now, func() string { n++; return string(rune('a' + n)) }, slog.New(slog.DiscardHandler))
	t.Cleanup(registry.Close)
	release := make(chan struct{})
	start := func() *operation.Operation {
		return registry.Start("vm.start", "a", func(context.Context, *operation.Operation) error { <-release; return nil })
	}
	first := u.wake("a", start)
	if second := u.wake("a", start); second != first || !u.waking("a") {
		t.Error("two starts at once")
	}
	close(release)
	if _, err := first.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if u.waking("a") {
		t.Error("it wakes for ever")
	}
	if u.wake("a", start) == first {
		t.Error("a start that has ended wakes nobody")
	}
}
