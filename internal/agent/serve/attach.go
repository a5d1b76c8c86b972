package serve

import (
	"bufio"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/frame"
)

// attachment is the one caller who sees what the command writes, as it comes, and types.
type attachment struct {
	h    *holder
	conn net.Conn
	in   *frame.Reader
	out  *frame.Writer
	// typist counts what it types.
	typist *typist
	// offsets are from where on stdout and stderr are sent.
	offsets [2]int64
	// repaint: the caller's screen is to become the session's.
	repaint bool
	// gone is closed when the caller has gone.
	gone chan struct{}
	once sync.Once
	// typing is done when nothing that it typed is given to the command any more.
	typing sync.WaitGroup
}

// attach makes conn the one that is attached, or says why not. A caller with the key of the one who is takes over: it has lost
// its connection, which nobody may have noticed here.
func (h *holder) attach(conn net.Conn, in *bufio.Reader, ask holdAsk) (*attachment, error) {
	a := &attachment{h: h, conn: conn, in: frame.NewReader(in), out: frame.NewWriter(conn), gone: make(chan struct{})}
	a.typist = h.typists.come(ask.Key, func() { a.end(); h.input.hurry() })
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.attached != nil {
		a.typist.leave()
		return nil, api.Errorf(api.CodeBusy, "somebody is attached to it")
	}
	h.attached = a
	for i, wanted := range []int64{ask.Stdout, ask.Stderr} {
		start, size := h.logs[i].bounds()
		switch {
		case wanted >= start && wanted <= size:
			a.offsets[i] = wanted
		case i == 0 && h.spec.Exec.TTY:
			a.offsets[i], a.repaint = h.repaintFrom(), true
		case wanted >= 0:
			a.offsets[i] = min(max(wanted, start), size)
		default:
			a.offsets[i] = size
		}
	}
	return a, nil
}

// leave makes room for others, and returns when what was typed has come to its end.
func (a *attachment) leave() {
	a.end()
	a.h.mu.Lock()
	a.h.attached = nil
	a.h.mu.Unlock()
	a.typing.Wait()
	a.typist.leave()
}

// serve returns when the session has ended and all is sent, or the caller has gone.
func (a *attachment) serve() {
	f, err := a.in.Read()
	if err != nil {
		return
	}
	m, err := f.Control()
	if err != nil || m.Type != api.ControlStart {
		_ = a.out.Control(api.Control{Type: api.ControlError, Error: api.Errorf(api.CodeInvalid, "a stream begins with start")})
		return
	}
	if m.Exec != nil {
		a.resize(m.Exec.Rows, m.Exec.Cols)
	}
	if a.repaint && a.paint() != nil {
		return
	}
	toCommand := make(chan typed, stdinAhead/frame.MaxPayload)
	a.typing.Go(func() { a.feed(toCommand) })
	go a.listen(toCommand)
	var streams sync.WaitGroup
	for i, ch := range []frame.Channel{frame.Stdout, frame.Stderr} {
		streams.Go(func() {
			switch err := a.copyLog(i, ch); {
			case errors.Is(err, errCut):
				// It comes again, and is told from where on there is something.
				_ = a.out.Control(api.Control{Type: api.ControlError, Error: api.Errorf(api.CodeBusy, "output was dropped before it was read")})
				a.end()
			case err != nil:
				a.end()
			}
		})
	}
	streams.Wait()
	select {
	case <-a.gone:
		return
	default:
	}
	r := a.h.result
	_ = a.out.Control(api.Control{
		Type: api.ControlExit, ExitCode: r.exitCode, Signal: r.signal, TimedOut: r.timedOut, DurationMS: r.duration.Milliseconds(),
	})
}

// paint shows the caller what its terminal would show if it had been there: the old output, and the modes that it left. What is
// not the command's own goes as stderr, which a terminal does not have: it counts in no offset.
func (a *attachment) paint() error {
	log := a.h.logs[0]
	log.mu.Lock()
	screen, until := a.h.screen.clone(), log.size
	log.mu.Unlock()
	if err := a.out.Write(frame.Stderr, []byte(screen.before())); err != nil {
		return err
	}
	buf := make([]byte, pumpSize)
	for a.offsets[0] < until {
		n, _, err := log.readAt(buf[:min(int64(len(buf)), until-a.offsets[0])], a.offsets[0])
		if err != nil {
			break // dropped meanwhile: what comes is enough
		}
		if err := a.out.Write(frame.Stdout, buf[:n]); err != nil {
			return err
		}
		a.offsets[0] += int64(n)
	}
	if after := screen.after(); after != "" {
		if err := a.out.Write(frame.Stderr, []byte(after)); err != nil {
			return err
		}
	}
	a.redraw()
	return nil
}

// redraw makes a program that paints the whole screen do so: it is told of the window's size though that may be the same.
func (a *attachment) redraw() {
	tty := a.h.c.tty
	raw, err := tty.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if pgrp, err := unix.IoctlGetInt(int(fd), unix.TIOCGPGRP); err == nil && pgrp > 1 {
			_ = unix.Kill(-pgrp, unix.SIGWINCH)
		}
	})
}

// copyLog sends a stream until it has ended.
func (a *attachment) copyLog(i int, ch frame.Channel) error {
	log, offset := a.h.logs[i], a.offsets[i]
	buf := make([]byte, pumpSize)
	for {
		n, more, err := log.readAt(buf, offset)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case more != nil:
			select {
			case <-more:
			case <-a.gone:
				return errGone
			}
			continue
		}
		if err := a.out.Write(ch, buf[:n]); err != nil {
			return err
		}
		offset += int64(n)
	}
}

// end lets go of a caller: both streams, listen and feed end.
func (a *attachment) end() {
	a.once.Do(func() {
		close(a.gone)
		_ = a.conn.Close()
	})
}

// typed is what a caller has for the command's standard input: bytes, or that there are no more.
type typed struct {
	p   []byte
	eof bool
}

// listen takes the caller's frames until it has gone. What it types goes through a channel: a resize or a signal must get
// past a command that does not read.
func (a *attachment) listen(to chan<- typed) {
	defer close(to)
	defer a.end()
	for {
		f, err := a.in.Read()
		if err != nil {
			return
		}
		var t typed
		switch f.Channel {
		case frame.Stdin:
			t.p = slices.Clone(f.Payload)
		case frame.Control:
			m, err := f.Control()
			if err != nil {
				return
			}
			if t.eof = m.Type == api.ControlEOF; !t.eof {
				a.control(m)
			}
		}
		if len(t.p) == 0 && !t.eof {
			continue
		}
		if !a.pass(to, t) {
			return
		}
	}
}

func (a *attachment) pass(to chan<- typed, t typed) bool {
	hungUp := hungUp(a.conn)
	look := time.NewTicker(stalledLook)
	defer look.Stop()
	for {
		select {
		case to <- t:
			return true
		case <-a.gone:
			return false
		case <-look.C:
			if hungUp() {
				return false
			}
		}
	}
}

func (a *attachment) feed(from <-chan typed) {
	gone := func() bool {
		select {
		case <-a.gone:
			return true
		default:
			return false
		}
	}
	for t := range from {
		size := len(t.p)
		var taken int
		var err error
		if t.eof {
			size, err = 1, a.h.input.end(gone)
		} else {
			taken, err = a.h.input.write(t.p, gone)
		}
		if errors.Is(err, errGone) { // the rest is sent again, by whoever has the key
			a.typist.took(taken)
			return
		}
		// A command that takes nothing any more, or never did, is no reason to end: its output counts.
		a.typist.took(size)
	}
}

func (a *attachment) control(m api.Control) {
	switch m.Type {
	case api.ControlResize:
		a.resize(m.Rows, m.Cols)
	case api.ControlSignal:
		_ = a.h.signal(m.Signal) // a name that is none changes nothing
	}
}

func (a *attachment) resize(rows, cols int) {
	if a.h.c.tty != nil && rows > 0 && cols > 0 {
		_ = resize(a.h.c.tty, rows, cols)
	}
}
