package main

import (
	"errors"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		samples []float64
		want    float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(c.samples); got != c.want {
			t.Errorf("median of %v is %v, not %v", c.samples, got, c.want)
		}
	}
}

func TestBounds(t *testing.T) {
	theirs := []float64{100, 1, 1000} // the median is 100
	for _, c := range []struct {
		name   string
		bound  bound
		ours   []float64
		theirs []float64
		err    error
		want   bool
	}{
		{"ratio, just within", bound{ratio, 0.8}, []float64{80}, theirs, nil, true},
		{"ratio, just outside", bound{ratio, 0.8}, []float64{80.1}, theirs, nil, false},
		{"the median counts, not the mean", bound{ratio, 0.8}, []float64{1, 80, 9000}, theirs, nil, true},
		{"plus, just within", bound{plus, 20}, []float64{120}, theirs, nil, true},
		{"plus, just outside", bound{plus, 20}, []float64{121}, theirs, nil, false},
		{"most, within", bound{most, 45}, []float64{45}, nil, nil, true},
		{"most, outside", bound{most, 45}, []float64{46}, nil, nil, false},
		{"no bound", bound{}, []float64{9e9}, nil, nil, true},
		{"nothing measured is not within", bound{most, 45}, nil, nil, nil, false},
		{"nor is nothing beside it", bound{ratio, 1.5}, []float64{1}, nil, nil, false},
		{"nor an error", bound{most, 45}, []float64{1}, nil, errNotBuilt, false},
		{"nor an error of a line without bound", bound{}, []float64{1}, nil, errors.New("broken"), false},
		{"what broke is outside", broken, []float64{1}, []float64{1}, nil, false},
	} {
		if got := (line{Bound: c.bound, Ours: c.ours, Theirs: c.theirs, Err: c.err}).holds(); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestWords(t *testing.T) {
	l := line{What: "run", Ours: []float64{50, 60, 40}, Theirs: []float64{200, 100}, Bound: bound{ratio, 0.8}, Aim: bound{ratio, 0.5}}
	if l.figures(l.Ours) != "50.0 ms (40.0 ms to 60.0 ms)" || l.reached() != "0.33 ×" || l.Bound.words(l.unit()) != "≤ 0.8 ×" || l.verdict() != "yes, and the aim" {
		t.Error(l.text())
	}
	l = line{What: "thaw", Ours: []float64{1500}, Theirs: []float64{1400}, Bound: bound{plus, 20}}
	if l.figures(l.Ours) != "1.50 s" || l.reached() != "+100.0 ms" || l.Bound.words(l.unit()) != "≤ + 20 ms" || l.verdict() != "OUTSIDE" {
		t.Error(l.text())
	}
	l = line{What: "idle", Unit: "%", Ours: []float64{0.301}, Bound: bound{most, 0.35}}
	if l.figures(l.Ours) != "0.30 %" || l.reached() != "" || l.Bound.words(l.unit()) != "≤ 0.35 %" || l.verdict() != "yes" {
		t.Error(l.text())
	}
}

func TestReport(t *testing.T) {
	r := report{rounds: 11, lines: []line{
		{What: "run|pipe", Beside: "podman", Ours: []float64{1}, Theirs: []float64{2}, Bound: bound{ratio, 0.8}},
		{What: "fork", Bound: bound{most, 15}, Err: errNotBuilt},
		{What: "stop", Ours: []float64{7}},
	}}
	text := r.markdown()
	for _, want := range []string{
		"| run\\|pipe | 1.0 ms | podman | 2.0 ms | 0.50 × | ≤ 0.8 × | yes |", "| fork |  |  |  |  | ≤ 15 ms | FAILED: not built |",
		"## For comparison", "| stop | 7.0 ms |  |  |", "- rounds: 11",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

const said = `note: something else
{"timings":[{"name":"prepare","depth":0,"start_ms":0,"client_ms":1},{"name":"start","depth":0,"start_ms":1,"client_ms":90,"daemon_ms":88},` +
	`{"name":"thaw","depth":1,"start_ms":10,"daemon_ms":60},{"name":"spawn","depth":2,"start_ms":10,"daemon_ms":5},` +
	`{"name":"delete","depth":0,"start_ms":95,"client_ms":20,"daemon_ms":19},{"name":"thaw","depth":1,"start_ms":96,"daemon_ms":1}]}
`

func TestStages(t *testing.T) {
	all, err := timingsIn(said)
	if err != nil {
		t.Fatal(err)
	}
	if thaw, ok := find(all, "start", "thaw", 1); !ok || thaw.StartMS != 10 || thaw.daemon() != 60 {
		t.Errorf("thaw is %+v", thaw)
	}
	if _, ok := find(all, "prepare", "thaw", 1); ok {
		t.Error("a thaw is found where there is none")
	}
	if _, err := timingsIn("nothing"); err == nil {
		t.Error("timings are found where there are none")
	}
	var s stages
	s.add(all)
	s.add(all)
	if len(s.order) != 6 || s.order[3] != "start/thaw/spawn" || len(s.byPath["start/thaw"].daemon) != 2 || len(s.byPath["delete/thaw"].client) != 0 {
		t.Errorf("stages are %v", s.order)
	}
	if text := s.markdown(); !strings.Contains(text, "| &ensp;&ensp;&ensp;&ensp;spawn |  | 5.0 |") || !strings.Contains(text, "| start | 90.0 | 88.0 |") {
		t.Error(text)
	}
}
