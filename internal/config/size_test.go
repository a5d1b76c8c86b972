package config

import (
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{
		"512M": 512 * MiB, "8G": 8 * GiB, "1.5G": 3 * GiB / 2, "2GiB": 2 * GiB, "2gb": 2 * GiB, "1048576": MiB,
		"64k": 64 * KiB, "1T": TiB, " 8 G ": 8 * GiB, "10B": 10, ".5G": GiB / 2,
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "G", "-1G", "0", "0G", "lots", "1X", "1e3G", "NaN", "Inf", "9999999T", "99999999999999999999", "1..5G", "1 2G", "0.0000000001K", "1,5G", "+5G"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", in, got)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for in, want := range map[int64]string{0: "0B", 1023: "1023B", 512 * MiB: "512M", 8 * GiB: "8G", 3 * GiB / 2: "1.5G", 1023 * MiB: "1023M", 2*GiB - 1: "1.9G"} {
		if got := FormatSize(in); got != want {
			t.Errorf("FormatSize(%d) = %q, want %q", in, got, want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"512M", "1.5G", "-1", "9e9T", "٣G"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			return
		}
		if n <= 0 {
			t.Fatalf("ParseSize(%q) = %d", s, n)
		}
		if again, err := ParseSize(exactSize(n)); err != nil || again != n {
			t.Fatalf("%q is %d, written %q, read %d, %v", s, n, exactSize(n), again, err)
		}
	})
}

func TestDurations(t *testing.T) {
	for in, want := range map[string]time.Duration{"90s": 90 * time.Second, "10": 10 * time.Second, "2m": 2 * time.Minute, "500ms": 500 * time.Millisecond, "1.5": 1500 * time.Millisecond} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %s, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "-1s", "soon", "1e30", "NaN", "Inf", "9999h"} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("ParseDuration(%q) = %s, want an error", in, got)
		}
	}
	for in, want := range map[time.Duration]string{1300 * time.Millisecond: "1.3s", 42 * time.Second: "42s", 192 * time.Second: "3m12s", 5 * time.Hour: "5h00m", 49 * time.Hour: "2d", 12 * time.Millisecond: "12ms"} {
		if got := FormatDuration(in); got != want {
			t.Errorf("FormatDuration(%s) = %q, want %q", in, got, want)
		}
	}
}
