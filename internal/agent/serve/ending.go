package serve

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// result is how a command ended.
type result struct {
	exitCode int
	signal   string
	timedOut bool
	duration time.Duration
}

// await returns when the command has ended. After timeout (if over 0), or once gone is
// closed, it is made to end, with everything that it has started.
func (c *command) await(timeout time.Duration, gone <-chan struct{}) result {
	var late <-chan time.Time
	if timeout > 0 {
		t := time.NewTimer(timeout)
		defer t.Stop()
		late = t.C
	}
	var r result
	select {
	case <-c.exited:
	case <-late:
		r.timedOut = true
		c.end(unix.SIGTERM)
	case <-gone:
		c.end(unix.SIGHUP, unix.SIGTERM)
	}
	r.duration = time.Since(c.started)
	ws := c.status
	r.exitCode = ws.ExitStatus()
	if ws.Signaled() {
		r.exitCode = 128 + int(ws.Signal())
		r.signal = signalName(ws.Signal())
	}
	if r.timedOut {
		r.exitCode = exitTimedOut
	}
	return r
}

// end asks the command's process group to end, and kills what is left after killAfter of
// all that the command started.
func (c *command) end(ask ...syscall.Signal) {
	c.group.note()
	for _, sig := range ask {
		c.group.signal(sig)
	}
	c.group.signal(unix.SIGCONT) // a stopped process would not hear it
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	late := time.After(killAfter)
	for {
		select {
		case <-look.C:
			if c.ended() && c.group.empty() {
				c.group.remove()
				return
			}
			continue
		case <-late:
		}
		break
	}
	c.group.kill()
	<-c.exited
}

func (c *command) ended() bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}
