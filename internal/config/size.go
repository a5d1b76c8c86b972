package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Binary units, as people mean them for memory and disks.
const (
	KiB int64 = 1 << 10
	MiB int64 = 1 << 20
	GiB int64 = 1 << 30
	TiB int64 = 1 << 40
)

// sizeUnits is ordered from the largest down, for FormatSize.
var sizeUnits = []struct {
	letter string
	bytes  int64
}{{"T", TiB}, {"G", GiB}, {"M", MiB}, {"K", KiB}}

// ParseSize reads "512M", "8G", "1.5G", "2GiB", "2gb" or a plain number of bytes. Every
// unit is binary: 1K is 1024 bytes. The result is over 0 and a whole number of bytes.
func ParseSize(text string) (int64, error) {
	bad := func(why string) error {
		return fmt.Errorf("%q is not a size: %s; write it like 512M or 8G", text, why)
	}
	s := strings.ToUpper(strings.TrimSpace(text))
	if s == "" {
		return 0, bad("it is empty")
	}
	end := strings.LastIndexAny(s, "0123456789.") + 1
	number, suffix := s[:end], strings.TrimSpace(s[end:])
	unit, ok := sizeUnit(suffix)
	if !ok {
		return 0, bad(fmt.Sprintf("unknown unit %q", suffix))
	}
	if strings.Trim(number, "0123456789.") != "" || strings.Count(number, ".") > 1 || strings.Trim(number, ".") == "" {
		return 0, bad("it does not begin with a number")
	}
	if whole, err := strconv.ParseInt(number, 10, 64); err == nil {
		if whole <= 0 {
			return 0, bad("it must be over 0")
		}
		if whole > math.MaxInt64/unit {
			return 0, bad("it is too large")
		}
		return whole * unit, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f*float64(unit) >= math.MaxInt64 {
		return 0, bad("it is too large")
	}
	if n := int64(f * float64(unit)); n > 0 {
		return n, nil
	}
	return 0, bad("it must be over 0")
}

func sizeUnit(suffix string) (int64, bool) {
	if suffix == "" || suffix == "B" {
		return 1, true
	}
	for _, u := range sizeUnits {
		if suffix == u.letter || suffix == u.letter+"B" || suffix == u.letter+"IB" {
			return u.bytes, true
		}
	}
	return 0, false
}

// FormatSize writes bytes for people: "512M", "1.5G", "0B". It loses digits beyond the
// first after the point.
func FormatSize(n int64) string {
	for _, u := range sizeUnits {
		if n < u.bytes {
			continue
		}
		f := math.Floor(float64(n)/float64(u.bytes)*10) / 10
		if f == math.Trunc(f) || f >= 100 {
			return strconv.FormatFloat(math.Trunc(f), 'f', 0, 64) + u.letter
		}
		return strconv.FormatFloat(f, 'f', 1, 64) + u.letter
	}
	return strconv.FormatInt(n, 10) + "B"
}

// exactSize writes bytes so that ParseSize gives the same number again.
func exactSize(n int64) string {
	for _, u := range sizeUnits {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.letter
		}
	}
	return strconv.FormatInt(n, 10)
}
