package serve

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"slices"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/frame"
)

// The agent talks to a session's holder over its socket: a line of JSON (holdAsk), a line of JSON back (holdAnswer), and
// then, for attach and send, the frames of the host's caller, which the agent passes on as they are.

// What can be asked of a holder.
const (
	askAttach = "attach"
	askSend   = "send"
	askStop   = "stop"
	askSignal = "signal"
)

type holdAsk struct {
	Do     string `json:"do"`
	Signal string `json:"signal"`
	// Stdout and Stderr are from where on to send; -1 leaves it to the holder.
	Stdout int64 `json:"stdout"`
	Stderr int64 `json:"stderr"`
	// Key tells one caller who attaches again from another.
	Key string `json:"key"`
}

type holdAnswer struct {
	Error *api.Error `json:"error"`
	// Stdout and Stderr are from where on it is sent.
	Stdout int64 `json:"stdout"`
	Stderr int64 `json:"stderr"`
	// Stdin is how much of what the caller with this key sent before has been taken, with one for each end; -1: it is not known.
	Stdin int64 `json:"stdin"`
}

// answer talks to everybody who comes.
func (h *holder) answer(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		h.callers.Add(1)
		go func() {
			defer h.callers.Done()
			defer conn.Close()
			h.talk(conn)
		}()
	}
}

func (h *holder) talk(conn net.Conn) {
	in := bufio.NewReaderSize(conn, 8<<10)
	line, err := in.ReadSlice('\n')
	if err != nil {
		return
	}
	var ask holdAsk
	if err := json.Unmarshal(line, &ask); err != nil {
		return
	}
	say := func(a holdAnswer) bool { return json.NewEncoder(conn).Encode(a) == nil }
	refuse := func(err error) { say(holdAnswer{Error: api.AsError(err)}) }
	if h.over() {
		refuse(errSessionOver)
		return
	}
	switch ask.Do {
	case askStop:
		if err := h.stop(); err != nil {
			refuse(err)
			return
		}
		say(holdAnswer{})
	case askSignal:
		if err := h.signal(ask.Signal); err != nil {
			refuse(err)
			return
		}
		say(holdAnswer{})
	case askSend:
		t := h.typists.come(ask.Key, func() { _ = conn.Close(); h.input.hurry() })
		defer t.leave()
		if err := h.input.refusal(); err != nil && t.offset() <= 0 {
			refuse(err)
		} else if say(holdAnswer{Stdin: t.offset()}) {
			h.send(conn, in, t)
		}
	case askAttach:
		a, err := h.attach(conn, in, ask)
		if err != nil {
			refuse(err)
			return
		}
		defer a.leave()
		if say(holdAnswer{Stdout: a.offsets[0], Stderr: a.offsets[1], Stdin: a.typist.offset()}) {
			a.serve()
		}
	default:
		refuse(api.Errorf(api.CodeInvalid, "a holder cannot %q", ask.Do))
	}
}

var errSessionOver = api.Errorf(api.CodeConflict, "it has ended")

func (h *holder) over() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}

// stop asks the command to end.
func (h *holder) stop() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.trace.stops(h.over); err != nil {
		return err
	}
	h.c.group.signal(unix.SIGTERM)
	h.c.group.signal(unix.SIGCONT) // a stopped process would not hear it
	return nil
}

// signal sends to the command's process group; KILL is for all that it has started.
func (h *holder) signal(name string) error {
	sig, err := parseSignal(name)
	if err != nil {
		return err
	}
	h.c.group.signal(sig)
	if sig == unix.SIGKILL {
		h.c.group.kill()
	}
	return nil
}

// send takes what somebody has for the command's standard input, up to an empty frame, and then says so by an exit.
func (h *holder) send(conn net.Conn, r *bufio.Reader, t *typist) {
	in, out := frame.NewReader(r), frame.NewWriter(conn)
	err := h.receive(in, t, hungUp(conn))
	switch {
	case err == nil:
		_ = out.Control(api.Control{Type: api.ControlExit})
	case errors.Is(err, errEnded):
		_ = out.Control(api.Control{Type: api.ControlError, Error: api.Errorf(api.CodeConflict, "the command takes no more: it has closed its standard input, or ended")})
	case !errors.Is(err, errGone):
		_ = out.Control(api.Control{Type: api.ControlError, Error: api.AsError(err)})
	}
}

func (h *holder) receive(in *frame.Reader, t *typist, gone func() bool) error {
	for {
		f, err := in.Read()
		if err != nil {
			return orGone(err)
		}
		switch f.Channel {
		case frame.Stdin:
			if len(f.Payload) == 0 {
				return nil
			}
			var taken int
			taken, err = h.input.write(f.Payload, gone)
			t.took(taken)
		case frame.Control:
			var m api.Control
			if m, err = f.Control(); err == nil && m.Type == api.ControlEOF {
				if err = h.input.end(gone); err == nil {
					t.took(1)
				}
			}
		}
		if err != nil {
			return err
		}
	}
}

// repaintFrom is where the part of a terminal's output begins that is shown again: at the start of a line, if there is one.
func (h *holder) repaintFrom() int64 {
	start, size := h.logs[0].bounds()
	from := max(start, size-scrollback)
	if from == 0 {
		return 0
	}
	buf := make([]byte, size-from)
	n, err := h.logs[0].f.ReadAt(buf, from)
	if err != nil && n == 0 {
		return from
	}
	return from + int64(slices.Index(buf[:n], '\n')+1)
}
