package vm

import (
	"testing"
	"time"
)

// seen makes samples of one second's distance. Each letter is one: "." nothing, "b" busy, "u" a use ended half a second before it,
// "c" 50 ms of CPU since the one before (5 % of that second), "r" the VMM has been replaced: its CPU time is less.
func seen(begin time.Time, letters string) []sample {
	var out []sample
	var lastUse time.Time
	cpu := time.Minute
	for i, letter := range letters {
		at := begin.Add(time.Duration(i) * time.Second)
		cpu += 3 * time.Millisecond // what an idle VMM uses
		switch letter {
		case 'u':
			lastUse = at.Add(-500 * time.Millisecond)
		case 'c':
			cpu += 50 * time.Millisecond
		case 'r':
			cpu = 0
		}
		out = append(out, sample{at: at, busy: letter == 'b', lastUse: lastUse, cpu: cpu})
	}
	return out
}

func TestIdle(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		letters string
		limit   time.Duration
		want    bool
	}{
		{"", 4 * time.Second, false},
		{".", 4 * time.Second, false},
		{"....", 4 * time.Second, false}, // three seconds only
		{".....", 4 * time.Second, true},
		{".....", 4*time.Second + 1, false},
		{"b.....", 4 * time.Second, true},
		{"b....", 4 * time.Second, false}, // busy until some time within the window
		{"....b", 4 * time.Second, false},
		{"..b..", 4 * time.Second, false},
		{"bbbb....", 4 * time.Second, false},
		{"bbbb.....", 4 * time.Second, true},
		{"u....", 4 * time.Second, true}, // it ended just before the window
		{".u....", 4 * time.Second, true},
		{"..u..", 4 * time.Second, false},
		{"....u", 4 * time.Second, false},
		{"..c..", 4 * time.Second, true}, // 50 ms in four seconds, and what the VMM uses, is under 2 %
		{".c.c.", 4 * time.Second, false},
		{"ccccc", 4 * time.Second, false},
		{"cc....", 4 * time.Second, true},
		{"..r..", 4 * time.Second, false},
		{"r....", 4 * time.Second, true},
		{"c.....................................................", 50 * time.Second, true},
	} {
		if got := idle(seen(time.Unix(1000, 0), test.letters), test.limit); got != test.want {
			t.Errorf("%q, %v: idle is %v", test.letters, test.limit, got)
		}
	}
}

// TestWithin: samples that tell nothing more are dropped, and dropping them changes no answer.
func TestWithin(t *testing.T) {
	t.Parallel()
	for _, letters := range []string{"bc.......", "bbbbu.....", "...c.c.c..b.....", "........"} {
		for limit := time.Second; limit < 8*time.Second; limit += 700 * time.Millisecond {
			var kept []sample
			all := seen(time.Unix(1000, 0), letters)
			for i := range all {
				kept = within(append(kept, all[i]), limit)
				if got, want := idle(kept, limit), idle(all[:i+1], limit); got != want {
					t.Fatalf("%q, %v, sample %d: %v with what was kept, %v with all", letters, limit, i, got, want)
				}
				if most := int(limit/time.Second) + 2; len(kept) > most {
					t.Fatalf("%q, %v: %d samples are kept", letters, limit, len(kept))
				}
			}
		}
	}
}

func TestSampleEvery(t *testing.T) {
	t.Parallel()
	for limit, want := range map[time.Duration]time.Duration{
		time.Second: time.Second, 8 * time.Second: 2 * time.Second, 10 * time.Minute: 15 * time.Second, time.Hour: 15 * time.Second,
	} {
		if got := sampleEvery(limit); got != want {
			t.Errorf("%v: every %v, want %v", limit, got, want)
		}
	}
}
