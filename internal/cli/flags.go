package cli

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"

	"banger/api"
	"banger/internal/config"
)

// sizeFlag is a flag like 512M.
type sizeFlag struct {
	bytes int64
	set   bool
}

func (s *sizeFlag) Set(text string) error {
	n, err := config.ParseSize(text)
	if err != nil {
		return err
	}
	if n < config.KiB && strings.Trim(text, "0123456789") == "" {
		return fmt.Errorf("%q is %s bytes; with a unit: %sM", text, text, text)
	}
	s.bytes, s.set = n, true
	return nil
}

func (s *sizeFlag) Type() string { return "size" }

func (s *sizeFlag) String() string {
	if !s.set {
		return ""
	}
	return config.FormatSize(s.bytes)
}

// durationFlag is a flag like 90s, 2m, or a number of seconds.
type durationFlag struct {
	d   time.Duration
	set bool
}

func (f *durationFlag) Set(text string) error {
	d, err := config.ParseDuration(text)
	if err != nil {
		return err
	}
	f.d, f.set = d, true
	return nil
}

func (f *durationFlag) Type() string { return "duration" }

func (f *durationFlag) String() string {
	if !f.set {
		return ""
	}
	return f.d.String()
}

func (f *durationFlag) milliseconds() int64 {
	if !f.set {
		return 0
	}
	return max(1, f.d.Milliseconds())
}

// orNeverFlag is a durationFlag that may also be 0.
type orNeverFlag struct{ durationFlag }

func (f *orNeverFlag) Set(text string) error {
	if strings.TrimSpace(text) == "0" {
		f.d, f.set = 0, true
		return nil
	}
	return f.durationFlag.Set(text)
}

// orNever is the milliseconds for a request in which 0 means that nobody said anything.
func orNever(d time.Duration) int64 {
	if d == 0 {
		return api.IdleNever
	}
	return max(1, d.Milliseconds())
}

// parseLabels reads K=V; K alone is K with an empty value.
func parseLabels(list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	labels := make(map[string]string, len(list))
	for _, l := range list {
		k, v, _ := strings.Cut(l, "=")
		if k == "" {
			return nil, api.Errorf(api.CodeInvalid, "label %q has no key", l).WithHint("--label KEY=VALUE")
		}
		labels[k] = v
	}
	return labels, nil
}

// environment makes the guest command's environment. As with docker, a name
// without a value takes the caller's, and is left out where the caller has none; a
// file has one entry a line, with no quoting, and # begins a comment.
func (a *app) environment(entries, files []string) ([]string, error) {
	var out []string
	add := func(entry, where string) error {
		name, _, hasValue := strings.Cut(entry, "=")
		if name == "" || strings.ContainsAny(name, " \t\x00") || strings.Contains(entry, "\x00") {
			return api.Errorf(api.CodeInvalid, "%s: %q is no name for an environment variable", where, name).WithHint("-e NAME=VALUE, or -e NAME for the caller's value")
		}
		if hasValue {
			out = append(out, entry)
		} else if v, ok := a.env[name]; ok {
			out = append(out, name+"="+v)
		}
		return nil
	}
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			return nil, api.Errorf(api.CodeInvalid, "cannot read --env-file: %w", err)
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 1<<20)
		for n := 1; lines.Scan(); n++ {
			line := strings.TrimLeft(lines.Text(), " \t")
			if line == "" || line[0] == '#' {
				continue
			}
			if err := add(line, fmt.Sprintf("%s, line %d", path, n)); err != nil {
				return nil, err
			}
		}
		if err := lines.Err(); err != nil {
			return nil, api.Errorf(api.CodeInvalid, "cannot read %s: %w", path, err)
		}
	}
	for _, e := range entries {
		if err := add(e, "-e"); err != nil {
			return nil, err
		}
	}
	return out, nil
}
