package vm

import (
	"slices"
	"testing"

	"banger/internal/store"
)

func TestMergeCount(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	same := func(n int, size int64) []int64 { return slices.Repeat([]int64{size}, n) }
	for name, c := range map[string]struct {
		sizes []int64
		want  int
	}{
		"all alike":              {same(8, mib), 8},
		"empty":                  {same(13, 0), 13},
		"a large one below":      {append(same(7, mib), 1000*mib), 7},
		"not so large":           {append(same(7, mib), 14*mib), 8},
		"two large ones below":   {append(same(6, mib), 100*mib, 1000*mib), 6},
		"large ones at the top":  {append([]int64{1000 * mib, 1000 * mib}, same(6, mib)...), 8},
		"too many large ones":    {append(same(4, mib), 10*mib, 100*mib, 1000*mib, 10_000*mib, 100_000*mib), 5},
		"a large one further up": {append(append(same(5, mib), 1000*mib), same(2, mib)...), 5},
	} {
		if got := mergeCount(c.sizes); got != c.want {
			t.Errorf("%s: %d layers are copied together, want %d", name, got, c.want)
		}
	}
}

// Chains of any growth stay short, and what is copied stays in proportion to what is written.
func TestMergeCountOverTime(t *testing.T) {
	t.Parallel()
	var chain []int64 // the newest first
	var written, copied int64
	for n := range 10_000 {
		size := int64(1 + n%7)
		chain, written = append([]int64{size}, chain...), written+size
		if len(chain) < shortenAt {
			continue
		}
		merged := mergeCount(chain)
		var sum int64
		for _, s := range chain[:merged] {
			sum += s
		}
		// What was copied together is in the disk on top, and so in the layer that it becomes.
		copied += sum
		chain = append([]int64{sum}, chain[merged:]...)
		if len(chain) > shortenAt/2+1 {
			t.Fatalf("%d layers are left after %d", len(chain), n)
		}
	}
	if copied > 20*written {
		t.Errorf("%d was copied for %d that was written", copied, written)
	}
}

func TestChainOf(t *testing.T) {
	t.Parallel()
	layers := map[string]store.Layer{
		"a": {ID: "a"}, "b": {ID: "b", Parent: "a"}, "c": {ID: "c", Parent: "gone"}, "x": {ID: "x", Parent: "y"}, "y": {ID: "y", Parent: "x"},
	}
	for id, want := range map[string]int{"": 0, "a": 1, "b": 2, "c": 1, "unknown": 0, "x": len(layers)} {
		if got := len(chainOf(layers, id)); got != want {
			t.Errorf("the chain of %q has %d layers, want %d", id, got, want)
		}
	}
}
