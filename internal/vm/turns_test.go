package vm

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"banger/api"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns, emulated := newTurns(2), api.VM{Runtime: api.VMRuntime{Accel: "tcg"}}
		take := func(vm api.VM) func() {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), turnTime/10)
			defer cancel()
			done, err := turns.take(ctx, vm)
			if err != nil {
				return nil
			}
			return done
		}
		first, second := take(emulated), take(emulated)
		if first == nil || second == nil {
			t.Fatal("there are not two turns")
		}
		if take(emulated) != nil {
			t.Fatal("a third one has a turn")
		}
		if take(api.VM{Runtime: api.VMRuntime{Accel: "kvm"}}) == nil {
			t.Fatal("with KVM one waits")
		}
		first()
		first()
		third := take(emulated)
		if third == nil || take(emulated) != nil {
			t.Fatal("one that has ended counts for none, or for two")
		}
		time.Sleep(turnTime) // they hang
		fourth := take(emulated)
		if fourth == nil {
			t.Fatal("guests that hang hold up the others")
		}
		second() // late
		third()
		if fifth := take(emulated); fifth == nil || take(emulated) != nil {
			t.Fatal("who is late ends another's turn")
		}
	})
}
