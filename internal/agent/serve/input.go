package serve

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
)

// stalledLook is how often somebody is looked after whose input the command does not take.
const stalledLook = 500 * time.Millisecond

// input is a session's standard input, which several may write to, in turns.
type input struct {
	c    *command
	open bool // at the start
	turn chan struct{}
	once sync.Once
	shut chan struct{} // closed when there is no more to come
}

func newInput(c *command, open bool) *input {
	in := &input{c: c, open: open && c.stdin != nil, turn: make(chan struct{}, 1), shut: make(chan struct{})}
	go func() { // lets go of a write to a pipe that a child still holds
		<-c.exited
		if c.stdin != nil && c.tty == nil {
			_ = c.stdin.SetWriteDeadline(time.Unix(1, 0))
		}
	}()
	return in
}

// refusal is why nothing can be sent; nil where it can.
func (in *input) refusal() error {
	if !in.open {
		return api.Errorf(api.CodeConflict, "its standard input is closed")
	}
	select {
	case <-in.shut:
		return api.Errorf(api.CodeConflict, "its standard input has been ended")
	default:
		return nil
	}
}

// errEnded says that the command will take no more.
var errEnded = errors.New("the command has ended")

// take waits for the turn.
func (in *input) take(gone func() bool) error {
	tick := time.NewTicker(stalledLook)
	defer tick.Stop()
	for {
		select {
		case in.turn <- struct{}{}:
			return nil
		case <-in.c.exited:
			return errEnded
		case <-tick.C:
			if gone() {
				return errGone
			}
		}
	}
}

// write hands p to the command. It stands still for as long as the command does not take it, unless the one who sends it has
// gone (errGone): of that, taken has come to the command.
func (in *input) write(p []byte, gone func() bool) (taken int, err error) {
	if err := in.refusal(); err != nil {
		return 0, err
	}
	if err := in.take(gone); err != nil {
		return 0, err
	}
	defer func() { <-in.turn }()
	for taken < len(p) {
		if in.c.ended() {
			return taken, errEnded
		}
		_ = in.c.stdin.SetWriteDeadline(time.Now().Add(stalledLook))
		n, err := in.c.stdin.Write(p[taken:])
		taken += n
		switch {
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return taken, errEnded // it has closed its end
		case gone() && taken < len(p):
			return taken, errGone
		}
	}
	return taken, nil
}

// hurry makes whoever is writing look now whether its caller has gone.
func (in *input) hurry() {
	if in.c.stdin != nil {
		_ = in.c.stdin.SetWriteDeadline(time.Unix(1, 0))
	}
}

// end tells the command that there is no more, now and for ever; on a terminal, that this line is the last.
func (in *input) end(gone func() bool) error {
	if err := in.refusal(); err != nil {
		return err
	}
	if in.c.tty != nil {
		_, err := in.write([]byte{4}, gone)
		return err
	}
	if err := in.take(gone); err != nil {
		return err
	}
	defer func() { <-in.turn }()
	in.once.Do(func() {
		close(in.shut)
		_ = in.c.stdin.Close()
	})
	return nil
}

// hungUp reports whether the other end of a unix connection is closed, without reading from it.
func hungUp(conn net.Conn) func() bool {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return func() bool { return false }
	}
	return func() bool {
		raw, err := u.SyscallConn()
		if err != nil {
			return true
		}
		closed := false
		err = raw.Control(func(fd uintptr) {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
			if n, err := unix.Poll(fds, 0); err == nil && n > 0 {
				closed = fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
			}
		})
		return closed || err != nil
	}
}
