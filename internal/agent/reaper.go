package agent

import (
	"errors"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// endKind is how a guest ends.
type endKind int

const (
	endPowerOff endKind = iota
	endReboot
)

// endSignals are those by which programs tell PID 1 to end the machine: busybox's
// (init/halt.c), systemd's (systemd(1), SIGNALS; SIGRTMIN is 34 in glibc) and the
// kernel's for Ctrl-Alt-Del. A halted machine would stand there for ever: it is powered off.
func endSignals() map[os.Signal]endKind {
	return map[os.Signal]endKind{
		unix.SIGTERM: endReboot, unix.SIGUSR1: endPowerOff, unix.SIGUSR2: endPowerOff, unix.SIGINT: endReboot,
		syscall.Signal(34 + 3): endPowerOff, syscall.Signal(34 + 4): endPowerOff, syscall.Signal(34 + 5): endReboot,
		syscall.Signal(34 + 13): endPowerOff, syscall.Signal(34 + 14): endPowerOff, syscall.Signal(34 + 15): endReboot,
	}
}

// reap is what PID 1 is in a guest without an init: it collects the dead, starts the
// agent again when that dies, and ends the guest when told. It does not return.
func reap() {
	if err := bareRoot(); err != nil {
		console("%v", err)
	}
	enableControllers()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) // Ctrl-Alt-Del comes as SIGINT from now on

	sigs := make(chan os.Signal, 64)
	ends := endSignals()
	signal.Notify(sigs, unix.SIGCHLD)
	for s := range ends {
		signal.Notify(sigs, s)
	}
	agent := newKeeper(roleAgent, initNone)
	agent.start()
	for {
		select {
		case <-agent.due:
			agent.start()
		case s := <-sigs:
			if kind, ok := ends[s]; ok {
				end(kind, agent.pid, sigs)
			}
			for {
				pid, status := collect()
				if pid <= 0 {
					break
				}
				agent.ended(pid, status)
			}
		}
	}
}

// collect takes one dead child from the kernel, and returns 0 or less when there is none.
func collect() (int, unix.WaitStatus) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return pid, status
	}
}

// superviseAgent keeps the agent alive beside systemd, which stays PID 1.
func superviseAgent(kind string) int {
	joinAgentCgroup()
	sigs := make(chan os.Signal, 8)
	signal.Notify(sigs, unix.SIGCHLD)
	// Ignored, but not for the agent's commands: a caught signal is reset by exec.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGHUP, unix.SIGINT)
	agent := newKeeper(roleAgent, kind)
	agent.start()
	for {
		select {
		case <-agent.due:
			agent.start()
		case <-sigs:
			for {
				pid, status := collect()
				if pid <= 0 {
					break
				}
				agent.ended(pid, status)
			}
		}
	}
}

// joinAgentCgroup moves this process into banger's group, out of systemd's reach.
func joinAgentCgroup() {
	if err := os.WriteFile(agentCgroup+"/cgroup.procs", []byte("0"), 0); err != nil {
		console("cannot join %s: %v", agentCgroup, err)
	}
}
