package local

import (
	"os/exec"
	"sync"
	"syscall"

	"banger/internal/host"
)

// children remembers what became of the processes that Spawn started.
type children struct {
	mu sync.Mutex // protects of
	of map[host.Process]*child

	small sync.Mutex // held while this process has given up huge pages, for a child's sake
}

// child is one of them; status is set before reaped is closed.
type child struct {
	reaped chan struct{}
	status syscall.WaitStatus
}

// reap waits for a child in the background, so that it never stays a zombie.
func (cs *children) reap(p host.Process, cmd *exec.Cmd) {
	c := &child{reaped: make(chan struct{})}
	cs.mu.Lock()
	cs.of[p] = c
	cs.mu.Unlock()
	go func() {
		defer close(c.reaped)
		_ = cmd.Wait()
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok {
			c.status = ws
		}
	}()
}

func (cs *children) find(p host.Process) (*child, bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c, ok := cs.of[p]
	return c, ok
}

// ExitStatus tells how a process ended that this daemon spawned, once.
func (ps processes) ExitStatus(p host.Process) (syscall.WaitStatus, bool) {
	c, ok := ps.children.find(p)
	if !ok {
		return 0, false
	}
	select {
	case <-c.reaped:
	default:
		return 0, false
	}
	ps.children.mu.Lock()
	delete(ps.children.of, p)
	ps.children.mu.Unlock()
	return c.status, true
}
