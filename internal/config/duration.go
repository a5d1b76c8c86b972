package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxDuration keeps absurd values from overflowing once they are milliseconds: a year.
const maxDuration = 365 * 24 * time.Hour

// ParseDuration reads "90s", "2m", "1h30m", "500ms" or a plain number of seconds.
// The result is over 0 and at most a year.
func ParseDuration(text string) (time.Duration, error) {
	s := strings.TrimSpace(text)
	d, err := time.ParseDuration(s)
	if seconds, ferr := strconv.ParseFloat(s, 64); ferr == nil && seconds >= 0 && seconds <= maxDuration.Seconds() {
		d, err = time.Duration(seconds*float64(time.Second)), nil
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("%q is not a duration: write it like 90s or 2m", text)
	case d <= 0:
		return 0, fmt.Errorf("%q is not a duration: it must be over 0", text)
	case d > maxDuration:
		return 0, fmt.Errorf("%q is not a duration banger can use: at most a year (8760h)", text)
	}
	return d, nil
}

// FormatDuration writes a span for people with two figures that matter: "1.3s", "42s",
// "3m12s", "5h", "2d".
func FormatDuration(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}
