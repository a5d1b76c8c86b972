package main

import (
	"encoding/json"
	"fmt"
	"strings"
)

// timing is a line of `banger run --timings=json`.
type timing struct {
	Name     string   `json:"name"`
	Depth    int      `json:"depth"`
	StartMS  float64  `json:"start_ms"`
	ClientMS *float64 `json:"client_ms"`
	DaemonMS *float64 `json:"daemon_ms"`
}

func (t timing) daemon() float64 {
	if t.DaemonMS == nil {
		return 0
	}
	return *t.DaemonMS
}

// timingsIn finds the timings in what a run has written on stderr.
func timingsIn(stderr string) ([]timing, error) {
	for l := range strings.Lines(stderr) {
		var line struct{ Timings []timing }
		if strings.HasPrefix(l, `{"timings":`) {
			err := json.Unmarshal([]byte(l), &line)
			return line.Timings, err
		}
	}
	return nil, fmt.Errorf("there are no timings in %q", stderr)
}

// find is the timing of the given name and depth within the stages of a client's stage.
func find(all []timing, within, name string, depth int) (timing, bool) {
	in := false
	for _, t := range all {
		if t.Depth == 0 {
			in = t.Name == within
		}
		if in && t.Name == name && t.Depth == depth {
			return t, true
		}
	}
	return timing{}, false
}

// stages collects the timings of several runs, in the order in which they first came up.
type stages struct {
	// title is the command.
	title  string
	order  []string
	byPath map[string]*stage
}

type stage struct {
	name           string
	depth          int
	client, daemon []float64
}

func (s *stages) add(all []timing) {
	if s.byPath == nil {
		s.byPath = map[string]*stage{}
	}
	path := make([]string, 3)
	for _, t := range all {
		path[t.Depth] = t.Name
		key := strings.Join(path[:t.Depth+1], "/")
		st := s.byPath[key]
		if st == nil {
			st = &stage{name: t.Name, depth: t.Depth}
			s.byPath[key] = st
			s.order = append(s.order, key)
		}
		if t.ClientMS != nil {
			st.client = append(st.client, *t.ClientMS)
		}
		if t.DaemonMS != nil {
			st.daemon = append(st.daemon, *t.DaemonMS)
		}
	}
}

func tenths(samples []float64) string {
	if len(samples) == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", median(samples))
}

func (s *stages) text() string {
	if len(s.order) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-40s %8s %8s   ms, medians of %s\n", "STAGE", "CLIENT", "DAEMON", s.title)
	for _, key := range s.order {
		st := s.byPath[key]
		fmt.Fprintf(&b, "%-40s %8s %8s\n", strings.Repeat("  ", st.depth)+st.name, tenths(st.client), tenths(st.daemon))
	}
	return b.String()
}

func (s *stages) markdown() string {
	if len(s.order) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n## Where the time goes: %s\nMedians in ms, as the client saw it and as the daemon did.\n\n| stage | client | daemon |\n|---|---|---|\n", s.title)
	for _, key := range s.order {
		st := s.byPath[key]
		cells(&b, strings.Repeat("&ensp;&ensp;", st.depth)+st.name, tenths(st.client), tenths(st.daemon))
	}
	return b.String()
}
