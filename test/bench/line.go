package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// line is one row of the table.
type line struct {
	What, Beside string
	// Unit is "ms" unless said otherwise.
	Unit string
	// Ours and Theirs are the samples; Theirs is empty where nothing stands beside.
	Ours, Theirs []float64
	Bound        bound
	// Aim is a stricter bound to aim for; missing it is no failure.
	Aim bound
	Err error
}

// bound is what a line's median must reach.
type bound struct {
	kind  boundKind
	value float64
}

type boundKind int

const (
	none   boundKind = iota
	ratio            // at most value × the other's median
	plus             // at most the other's median and value
	most             // at most value
	failed           // whatever was measured: something is missing
)

// broken is the bound of what could not be measured: no line may be lost by failing.
var broken = bound{kind: failed}

// errNotBuilt is for rows that wait for a feature.
var errNotBuilt = errors.New("not built")

// median is that of the samples; 0 for none, which within never takes for a result.
func median(samples []float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(samples))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// limit is the largest median that is within, and false where there is no bound.
func (b bound) limit(theirs []float64) (float64, bool) {
	switch b.kind {
	case ratio:
		return b.value * median(theirs), true
	case plus:
		return b.value + median(theirs), true
	case most:
		return b.value, true
	}
	return 0, false
}

// within reports whether ours reaches the bound.
func (b bound) within(ours, theirs []float64) bool {
	switch b.kind {
	case none:
		return true
	case failed:
		return false
	case ratio, plus:
		if len(theirs) == 0 {
			return false
		}
	}
	limit, _ := b.limit(theirs)
	return len(ours) > 0 && median(ours) <= limit
}

func (l line) holds() bool { return l.Err == nil && l.Bound.within(l.Ours, l.Theirs) }

func (b bound) words(unit string) string {
	n := strconv.FormatFloat(b.value, 'f', -1, 64)
	switch b.kind {
	case ratio:
		return "≤ " + n + " ×"
	case plus:
		return "≤ + " + n + " " + unit
	case most:
		return "≤ " + n + " " + unit
	}
	return ""
}

// reached is the same figure as the bound's, as measured.
func (l line) reached() string {
	ours, theirs := median(l.Ours), median(l.Theirs)
	switch {
	case len(l.Ours) == 0:
		return ""
	case len(l.Theirs) > 0 && l.Bound.kind == plus:
		return fmt.Sprintf("%+.1f %s", ours-theirs, l.unit())
	case len(l.Theirs) > 0 && theirs > 0:
		return fmt.Sprintf("%.2f ×", ours/theirs)
	}
	return ""
}

func (l line) unit() string {
	if l.Unit == "" {
		return "ms"
	}
	return l.Unit
}

// figures is median, least and most of samples.
func (l line) figures(samples []float64) string {
	if len(samples) == 0 {
		return ""
	}
	m := amount(median(samples), l.unit())
	if len(samples) == 1 {
		return m
	}
	return fmt.Sprintf("%s (%s to %s)", m, amount(slices.Min(samples), l.unit()), amount(slices.Max(samples), l.unit()))
}

func amount(v float64, unit string) string {
	switch {
	case unit == "ms" && v >= 1000:
		return fmt.Sprintf("%.2f s", v/1000)
	case unit == "%":
		return fmt.Sprintf("%.2f %%", v)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

func (l line) verdict() string {
	switch {
	case l.Err != nil:
		return "FAILED: " + l.Err.Error()
	case l.Bound.kind == none:
		return ""
	case !l.holds():
		return "OUTSIDE"
	case l.Aim.kind != none && l.Aim.within(l.Ours, l.Theirs):
		return "yes, and the aim"
	}
	return "yes"
}

func (l line) text() string {
	return fmt.Sprintf("%-66s %-34s %-34s %9s  %-9s %s", l.What, l.figures(l.Ours), l.figures(l.Theirs), l.reached(), l.Bound.words(l.unit()), l.verdict())
}
