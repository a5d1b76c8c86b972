package agent

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// restartPause is waited before an agent is started again that lived for less.
const restartPause = time.Second

// keeper keeps one role running.
type keeper struct {
	role, kind string
	pid        int
	started    time.Time
	// due fires when it is time to start again.
	due <-chan time.Time
}

func newKeeper(role, kind string) *keeper { return &keeper{role: role, kind: kind} }

func (k *keeper) start() {
	k.due = nil
	k.started = time.Now()
	pid, err := startRole(k.role, k.kind)
	if err != nil {
		console("%v", err)
		k.due = time.After(restartPause)
		return
	}
	k.pid = pid
}

// ended is told of every dead child.
func (k *keeper) ended(pid int, status unix.WaitStatus) {
	if pid != k.pid {
		return
	}
	k.pid = 0
	pause := restartPause
	if time.Since(k.started) > restartPause {
		pause = 0
	}
	why := fmt.Sprintf("exit code %d", status.ExitStatus())
	if status.Signaled() {
		why = "signal " + status.Signal().String()
	}
	console("the agent ended (%s) and is started again", why)
	k.due = time.After(pause)
}

// startRole starts this program in another role, with a clean environment and a session of its own.
func startRole(role, kind string) (int, error) {
	name := "@banger-agent"
	if role == roleSupervisor {
		name = "@banger-supervisor"
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("cannot start the agent: %w", err)
	}
	defer null.Close()
	out, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		out = null
	} else {
		defer out.Close()
	}
	pid, err := syscall.ForkExec(agentProgram(), []string{name, role, kind}, &syscall.ProcAttr{
		Dir: "/",
		// Nothing here runs long without a call, and the signals that would interrupt it cost a clone milliseconds.
		Env:   []string{"PATH=" + cleanPath, "HOME=/root", "LANG=C.UTF-8", "GODEBUG=asyncpreemptoff=1"},
		Files: []uintptr{null.Fd(), out.Fd(), out.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("cannot start the agent: %w", err)
	}
	return pid, nil
}

// cleanPath is where the agent looks for the image's programs.
const cleanPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
