package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"banger/api"
	"banger/client"
	"banger/internal/config"
)

// quiet is how long a step may take before somebody who is no terminal is told of it.
const quiet = 2 * time.Second

// progress shows the steps of one operation. On a terminal each is a line with its time,
// the last one moving; elsewhere only those that take long are said, once when
// that shows and once when they have ended.
type progress struct {
	w     io.Writer
	tty   bool
	label string // put before each line; may be empty
	now   func() time.Time

	op     api.Operation
	ended  map[int]bool // steps whose end has been dealt with
	said   map[int]bool // steps that somebody who is no terminal was told of while they ran
	warned int
	live   bool // the last line on the terminal is unfinished
	mute   bool // the operation is being undone: its steps are of no interest any more
}

func newProgress(w io.Writer, tty bool, now func() time.Time) *progress {
	return &progress{w: w, tty: tty, now: now, ended: make(map[int]bool), said: make(map[int]bool)}
}

func (p *progress) update(op api.Operation) {
	p.op = op
	for ; p.warned < len(op.Warnings); p.warned++ {
		p.clear()
		fmt.Fprintf(p.w, "%snote: %s\n", p.label, printable(op.Warnings[p.warned]))
	}
	for _, i := range p.justEnded() {
		s := op.Steps[i]
		p.ended[i] = true
		took := time.Duration(s.DurationMS) * time.Millisecond
		p.clear()
		if (p.tty || took >= quiet) && !p.mute {
			fmt.Fprintf(p.w, "%s%-28s %s\n", p.label, printable(s.Name), config.FormatDuration(took))
		}
	}
	p.tick()
}

// justEnded lists the steps that have ended since the last look, in the order in which they
// did: a step within a step ends before that.
func (p *progress) justEnded() []int {
	var steps []int
	for i, s := range p.op.Steps {
		if s.EndedAt != nil && !p.ended[i] {
			steps = append(steps, i)
		}
	}
	slices.SortFunc(steps, func(x, y int) int {
		return cmp.Or(p.op.Steps[x].EndedAt.Compare(*p.op.Steps[y].EndedAt), cmp.Compare(y, x))
	})
	return steps
}

// tick shows the innermost step that runs.
func (p *progress) tick() {
	i := len(p.op.Steps) - 1
	for i >= 0 && p.op.Steps[i].EndedAt != nil {
		i--
	}
	if i < 0 || p.mute || p.op.State != api.OperationRunning {
		return
	}
	s := p.op.Steps[i]
	took := p.now().Sub(s.StartedAt)
	if p.tty {
		fmt.Fprintf(p.w, "\r\x1b[K%s%-28s %s%s", p.label, printable(s.Name), config.FormatDuration(took.Truncate(100*time.Millisecond)), amount(s))
		p.live = true
		return
	}
	if took >= quiet && !p.said[i] {
		p.said[i] = true
		fmt.Fprintf(p.w, "%s%s ...%s\n", p.label, printable(s.Name), amount(s))
	}
}

// amount is how far a step is and what it is doing, cut to fit a terminal's line.
func amount(s api.OperationStep) string {
	var b strings.Builder
	switch {
	case s.Total > 0:
		fmt.Fprintf(&b, "  %s of %s", config.FormatSize(s.Done), config.FormatSize(s.Total))
	case s.Done > 0:
		fmt.Fprintf(&b, "  %s", config.FormatSize(s.Done))
	}
	if d := []rune(printable(s.Detail)); len(d) > 0 {
		b.WriteString("  " + string(d[:min(len(d), 40)]))
	}
	return b.String()
}

// clear takes away the moving line.
func (p *progress) clear() {
	if p.live {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.live = false
	}
}

// follow shows an operation until it has ended and returns its end; one that failed is an
// error. When ctx ends it cancels the operation and waits until everything is undone.
func (a *app) follow(ctx context.Context, c *client.Client, op api.Operation, label string) (api.Operation, error) {
	p := newProgress(a.Err, isTerminal(a.Err) && label == "", a.now)
	if label != "" {
		p.label = label + ": "
	}
	defer p.clear()
	updates := make(chan api.Operation)
	end := make(chan error, 1)
	watchCtx, stopWatch := context.WithCancel(a.hard)
	defer stopWatch()
	go func() {
		_, err := c.WatchOperation(watchCtx, op.ID, func(o api.Operation) error {
			select {
			case updates <- o:
				return nil
			case <-watchCtx.Done():
				return watchCtx.Err()
			}
		})
		end <- err
	}()
	ticks := time.NewTicker(100 * time.Millisecond)
	defer ticks.Stop()
	cancelled := ctx.Done()
	p.update(op)
	for {
		select {
		case o := <-updates:
			op = o
			p.update(o)
		case <-ticks.C:
			p.tick()
		case <-cancelled:
			cancelled = nil
			p.clear()
			p.mute = true
			a.note("cancelling and undoing ...")
			if _, err := c.CancelOperation(a.hard, op.ID); err != nil {
				return op, errors.Join(context.Cause(ctx), err)
			}
		case err := <-end:
			p.clear()
			if err != nil {
				return op, err
			}
			if op.State != api.OperationDone {
				return op, a.operationError(c, op)
			}
			return op, nil
		}
	}
}

// operationError is why an operation failed; the end of the guest's console is shown
// where the VM is kept with one.
func (a *app) operationError(c *client.Client, op api.Operation) error {
	e := op.Error
	if e == nil {
		e = api.Errorf(api.CodeInternal, "operation %s ended as %s", op.ID, op.State)
	}
	if op.VMID == "" || e.Code == api.CodeCancelled || strings.Contains(e.Message, "\n") {
		return e // a message of several lines has the console in it
	}
	vm, err := c.VM(a.hard, op.VMID)
	if err == nil && vm.LastError != nil {
		a.showConsole(vm.Name, vm.LastError.ConsoleTail)
	}
	return e
}

func (a *app) showConsole(name, tail string) {
	if strings.TrimSpace(tail) == "" || a.json {
		return
	}
	a.note("the end of %s's console:", name)
	for line := range strings.Lines(strings.TrimRight(tail, "\n")) {
		a.note("  | %s", printable(strings.TrimRight(line, "\r\n")))
	}
}
