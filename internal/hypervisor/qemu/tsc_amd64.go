package qemu

import (
	"time"

	"golang.org/x/sys/unix"
)

// rdtsc reads the CPU's time stamp counter.
func rdtsc() uint64

// tscWindow is how long the counter is watched; reading errors of under 100 ns then are 2 ppm.
const tscWindow = 50 * time.Millisecond

// measureTSC is the rate of the host's time stamp counter in kHz. Emulated guests see that very
// counter. /proc/cpuinfo has the core's present clock instead, and the kernel keeps its own figure to itself.
func measureTSC() int64 {
	t0, n0, ok0 := tscAt()
	time.Sleep(tscWindow)
	t1, n1, ok1 := tscAt()
	if !ok0 || !ok1 || n1 <= n0 || t1 <= t0 {
		return 0
	}
	return int64((float64(t1-t0)*1e6)/float64(n1-n0) + 0.5)
}

// tscAt reads the counter and the clock together: of several readings, the one taken quickest.
func tscAt() (ticks uint64, ns int64, ok bool) {
	best := ^uint64(0)
	for range 16 {
		var ts unix.Timespec
		before := rdtsc()
		if unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &ts) != nil {
			return 0, 0, false
		}
		after := rdtsc()
		if d := after - before; after > before && d < best {
			best, ticks, ns, ok = d, before+d/2, ts.Nano(), true
		}
	}
	return ticks, ns, ok
}
