package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"banger/api"
)

// steps makes an operation: each step is its name, its begin and its end in ms from t0 (-1: runs).
func steps(t0 time.Time, list ...any) api.Operation {
	op := api.Operation{ID: "op", State: api.OperationRunning}
	for i := 0; i < len(list); i += 3 {
		begin, end := list[i+1].(int), list[i+2].(int)
		s := api.OperationStep{Name: list[i].(string), StartedAt: t0.Add(time.Duration(begin) * time.Millisecond)}
		if end >= 0 {
			at := t0.Add(time.Duration(end) * time.Millisecond)
			s.EndedAt, s.DurationMS = &at, int64(end-begin)
		}
		op.Steps = append(op.Steps, s)
	}
	return op
}

func TestProgressOffTerminal(t *testing.T) {
	var out bytes.Buffer
	t0 := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	now := t0
	p := newProgress(&out, false, func() time.Time { return now })
	at := func(ms int, op api.Operation) {
		now = t0.Add(time.Duration(ms) * time.Millisecond)
		p.update(op)
	}
	at(0, steps(t0, "reserve", 0, -1))
	at(100, steps(t0, "reserve", 0, 50, "image", 50, -1, "download", 60, -1))
	at(1900, steps(t0, "reserve", 0, 50, "image", 50, -1, "download", 60, -1))
	if out.Len() > 0 {
		t.Errorf("something before 2 s: %q", out.String())
	}
	now = t0.Add(2100 * time.Millisecond)
	p.tick()
	p.tick()
	at(4000, steps(t0, "reserve", 0, 50, "image", 50, 3900, "download", 60, 3800, "boot", 3900, -1))
	op := steps(t0, "reserve", 0, 50, "image", 50, 3900, "download", 60, 3800, "boot", 3900, 5000)
	op.State, op.Warnings = api.OperationDone, []string{"no KVM\x1b[2J"}
	at(5000, op)
	want := "download ...\ndownload                     3.7s\nimage                        3.9s\nnote: no KVM?[2J\n"
	if got := out.String(); strings.ReplaceAll(got, "3.8s", "3.9s") != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func TestProgressOnTerminal(t *testing.T) {
	var out bytes.Buffer
	t0 := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	now := t0.Add(500 * time.Millisecond)
	p := newProgress(&out, true, func() time.Time { return now })
	op := steps(t0, "reserve", 0, 50, "image", 50, -1)
	op.Steps[1].Done, op.Steps[1].Total = 512<<10, 1<<20
	p.update(op)
	want := "reserve                      50ms\n\r\x1b[Kimage                        400ms  512K of 1M"
	if out.String() != want {
		t.Errorf("got  %q\nwant %q", out.String(), want)
	}
	out.Reset()
	op = steps(t0, "reserve", 0, 50, "image", 50, 900)
	op.State = api.OperationDone
	p.update(op)
	if want := "\r\x1b[Kimage                        850ms\n"; out.String() != want {
		t.Errorf("got  %q\nwant %q", out.String(), want)
	}
}
