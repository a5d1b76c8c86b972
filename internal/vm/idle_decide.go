package vm

import "time"

// idleShare is the share of one core that an idle guest stays under.
const idleShare = 0.02

// sample is what was seen of a VM at one moment.
type sample struct {
	at time.Time
	// busy: somebody used it, a session ran, a connection was open, or nobody could tell.
	busy bool
	// lastUse is when a use ended last; zero if none has.
	lastUse time.Time
	// cpu is the CPU time of its VMM, the guest's included, since the VMM's start, without what taking samples costs.
	cpu time.Duration
}

// idle reports whether a VM has been idle for limit at the time of the last sample: each sample of that time says so, no use
// ended in it, and over the whole of it the guest used under idleShare of a core. samples are in order; they must begin
// at least limit before the last.
func idle(samples []sample, limit time.Duration) bool {
	if len(samples) < 2 {
		return false
	}
	last := samples[len(samples)-1]
	begin := last.at.Add(-limit)
	if samples[0].at.After(begin) || last.lastUse.After(begin) {
		return false
	}
	samples = within(samples, limit)
	for _, s := range samples {
		if s.busy && !(s.at == samples[0].at && s.at.Before(begin)) {
			return false
		}
	}
	used, took := last.cpu-samples[0].cpu, last.at.Sub(samples[0].at)
	return used >= 0 && used.Seconds() < idleShare*took.Seconds()
}

// within is the samples that tell about the last limit: from the newest that is at least so old on.
func within(samples []sample, limit time.Duration) []sample {
	if len(samples) == 0 {
		return nil
	}
	begin := samples[len(samples)-1].at.Add(-limit)
	for len(samples) > 1 && !samples[1].at.After(begin) {
		samples = samples[1:]
	}
	return samples
}

// How often a VM with an idle policy is looked at.
const (
	minSampleEvery = time.Second
	maxSampleEvery = 15 * time.Second
)

func sampleEvery(limit time.Duration) time.Duration {
	return min(max(limit/4, minSampleEvery), maxSampleEvery)
}
