package hypervisortest

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"banger/api"
	"banger/internal/frame"
)

// echo is a command that says what it is told, all the time.
type echo struct {
	ended chan error
	stop  chan struct{}
	heard atomic.Int64
}

// echoes starts one.
func echoes(t *testing.T, r *running) *echo {
	t.Helper()
	conn, frames, err := begin(bounded(t, time.Minute), r, api.ExecSpec{Argv: []string{"/bin/sh", "-c", "exec cat"}, Cwd: "/", Stdin: true})
	if err != nil {
		t.Fatalf("exec cat: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	e := &echo{ended: make(chan error, 1), stop: make(chan struct{})}
	out := frame.NewWriter(conn)
	var said atomic.Int64
	go func() {
		for n := 0; ; n++ {
			line := fmt.Appendf(nil, "%0999d\n", n)
			if err := out.Write(frame.Stdin, line); err != nil {
				return // the reader sees why
			}
			said.Add(int64(len(line)))
			select {
			case <-e.stop:
				_ = out.Control(api.Control{Type: api.ControlEOF})
				return
			case <-time.After(time.Millisecond): // a guest that is emulated has other things to do
			}
		}
	}()
	go func() { e.ended <- e.listen(frames, &said) }()
	return e
}

// listen holds that everything comes back once, and in order.
func (e *echo) listen(frames *frame.Reader, said *atomic.Int64) error {
	var rest []byte
	lines := 0
	for {
		f, err := frames.Read()
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", e.heard.Load(), err)
		}
		switch f.Channel {
		case frame.Stdout:
			e.heard.Add(int64(len(f.Payload)))
			rest = append(rest, f.Payload...)
			for i := bytes.IndexByte(rest, '\n'); i >= 0; i = bytes.IndexByte(rest, '\n') {
				if want := fmt.Sprintf("%0999d", lines); string(rest[:i]) != want {
					return fmt.Errorf("line %d is %q", lines, rest[:i])
				}
				lines, rest = lines+1, rest[i+1:]
			}
		case frame.Control:
			m, err := f.Control()
			switch {
			case err != nil:
				return err
			case m.Type != api.ControlExit || m.ExitCode != 0:
				return fmt.Errorf("it ended with %+v, %v", m, m.Error)
			case e.heard.Load() != said.Load():
				return fmt.Errorf("of %d bytes came %d", said.Load(), e.heard.Load())
			}
			return nil
		case frame.Stdin:
			return errors.New("a frame that only the host sends")
		}
	}
}

// goesOn waits until more has come.
func (e *echo) goesOn(t *testing.T) {
	t.Helper()
	ctx := bounded(t, bootTime)
	for before := e.heard.Load(); e.heard.Load() == before; {
		select {
		case err := <-e.ended:
			e.ended <- err
			t.Errorf("a stream has ended: %v", err)
			return
		case <-ctx.Done():
			t.Errorf("a stream stands still after %d bytes", before)
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// end lets it come to its end.
func (e *echo) end(t *testing.T) {
	t.Helper()
	close(e.stop)
	select {
	case err := <-e.ended:
		if err != nil {
			t.Errorf("a stream over what went on: %v", err)
		}
	case <-bounded(t, bootTime).Done():
		t.Errorf("a stream does not end, after %d bytes", e.heard.Load())
	}
}
