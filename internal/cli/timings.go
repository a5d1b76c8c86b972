package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"banger/api"
)

// timingsFlag is --timings, or --timings=json.
type timingsFlag struct{ form string }

func (f *timingsFlag) flag(flags *pflag.FlagSet) {
	v := flags.VarPF(f, "timings", "", "print on stderr where the time went, as banger saw it and as the daemon did; `FORM` is table or json")
	v.NoOptDefVal = "table"
}

func (f *timingsFlag) Set(text string) error {
	if text != "table" && text != "json" {
		return fmt.Errorf("%q is neither table nor json", text)
	}
	f.form = text
	return nil
}

func (f *timingsFlag) Type() string   { return "form" }
func (f *timingsFlag) String() string { return f.form }

// begin is nil, which measures nothing, unless timings are wanted.
func (f *timingsFlag) begin(a *app) *timings {
	if f.form == "" {
		return nil
	}
	return &timings{json: f.form == "json" || a.json, now: a.now, begun: a.begun, last: a.begun}
}

// timings are where the time of one command went. A nil one does nothing.
type timings struct {
	json        bool
	now         func() time.Time
	begun, last time.Time
	rows        []timing
}

// timing is one line. Client and daemon share a clock: they share a machine.
type timing struct {
	Name string `json:"name"`
	// Depth is 0 for the client's stages, 1 for the daemon's steps within one, 2 for the stages of those.
	Depth   int     `json:"depth"`
	StartMS float64 `json:"start_ms"` // from the client's begin
	// ClientMS is as the client saw it, DaemonMS as the daemon did; absent where only the other knows.
	ClientMS *float64 `json:"client_ms,omitempty"`
	DaemonMS *float64 `json:"daemon_ms,omitempty"`
}

func millis(d time.Duration) *float64 {
	ms := float64(d.Microseconds()) / 1000
	return &ms
}

// end closes a stage of the client's that began where the one before ended.
func (t *timings) end(name string) {
	if t == nil {
		return
	}
	now := t.now()
	t.rows = append(t.rows, timing{Name: name, StartMS: *millis(t.last.Sub(t.begun)), ClientMS: millis(now.Sub(t.last))})
	t.last = now
}

// operation is end for a stage that the daemon has done in an operation.
func (t *timings) operation(name string, op api.Operation) {
	if t == nil {
		return
	}
	t.end(name)
	if op.EndedAt != nil {
		t.rows[len(t.rows)-1].DaemonMS = millis(op.EndedAt.Sub(op.StartedAt))
	}
	for _, s := range op.Steps {
		if s.EndedAt == nil {
			continue
		}
		begin := s.StartedAt.Sub(t.begun)
		t.rows = append(t.rows, timing{Name: s.Name, Depth: 1, StartMS: *millis(begin), DaemonMS: millis(s.EndedAt.Sub(s.StartedAt))})
		for _, stage := range s.Stages {
			took := time.Duration(stage.DurationUS) * time.Microsecond
			t.rows = append(t.rows, timing{Name: stage.Name, Depth: 2, StartMS: *millis(begin), DaemonMS: millis(took)})
			if !stage.Within {
				begin += took
			}
		}
	}
}

// exec is end for the command, with the time to the first byte of its output.
func (t *timings) exec(a *app, run func() (int, error)) (int, error) {
	if t == nil {
		return run()
	}
	out, errs := a.Out, a.Err
	first := &firstWrite{now: t.now}
	a.Out, a.Err = first.over(out), first.over(errs)
	code, err := run()
	a.Out, a.Err = out, errs
	begin := t.last
	t.end("command")
	if !first.at.IsZero() {
		t.rows = append(t.rows, timing{Name: "first output", Depth: 1, StartMS: *millis(begin.Sub(t.begun)), ClientMS: millis(first.at.Sub(begin))})
	}
	return code, err
}

// firstWrite notes when the first of several streams is written to.
type firstWrite struct {
	now func() time.Time
	at  time.Time
}

func (f *firstWrite) over(w io.Writer) io.Writer {
	if isTerminal(w) {
		return w // whoever asks whether it is one must be told
	}
	return writerFunc(func(p []byte) (int, error) {
		if f.at.IsZero() {
			f.at = f.now()
		}
		return w.Write(p)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// print writes the table, or one line of JSON.
func (t *timings) print(a *app) error {
	if t == nil {
		return nil
	}
	whole := timing{Name: "whole", ClientMS: millis(t.now().Sub(t.begun))}
	rows := append(t.rows, whole)
	if t.json {
		return writeJSONLine(a.Err, map[string][]timing{"timings": rows})
	}
	table := newTable("STAGE", "CLIENT", "DAEMON")
	for _, r := range rows {
		table.add(strings.Repeat("  ", r.Depth)+r.Name, inMillis(r.ClientMS), inMillis(r.DaemonMS))
	}
	return table.write(a.Err)
}

func inMillis(ms *float64) string {
	if ms == nil {
		return ""
	}
	return strconv.FormatFloat(*ms, 'f', 1, 64) + " ms"
}
