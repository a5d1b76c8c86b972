package firecracker

import (
	"fmt"
	"strings"
	"syscall"

	"banger/internal/hypervisor/vmm"
)

// exit is what is known about the end of a VMM.
type exit struct {
	status syscall.WaitStatus
	known  bool // status was ours to ask for
	off    bool // the guest powered off
	killed bool // by us
	oom    bool // the kernel has killed something for want of memory meanwhile
	words  string
}

// wordExit says in a clause why a VMM is gone.
func wordExit(e exit) string {
	var why string
	switch {
	case e.off:
		return "the guest powered off"
	case e.killed:
		return "killed by banger"
	case e.known && e.status.Signaled() && e.status.Signal() == syscall.SIGKILL && e.oom:
		return "killed by the kernel: the host ran out of memory"
	case e.known && e.status.Signaled():
		why = fmt.Sprintf("Firecracker was ended by signal %d (%s)", e.status.Signal(), e.status.Signal())
	case e.known && e.status.ExitStatus() != 0:
		why = fmt.Sprintf("Firecracker ended with exit code %d", e.status.ExitStatus())
	case !e.known && e.oom:
		why = "Firecracker is gone; the kernel was killing processes because the host ran out of memory"
	default:
		why = "Firecracker ended"
	}
	if e.words != "" {
		why += ": " + e.words
	}
	return why
}

// Of Firecracker's own log: the end of each line is what people read, and "exit_code=0" is its last word when its guest has rebooted.
const endedWell = "exit_code=0"

// words are the last of what a Firecracker and its jailer have said, errors only.
func (i *instance) words(ps *process) string {
	var out []string
	for _, line := range vmm.TailAll(ownLog(&i.m)).Tail(20) {
		if _, text, ok := strings.Cut(line, "ERROR"); ok {
			_, after, found := strings.Cut(text, "] ")
			if found {
				text = after
			}
			out = append(out, strings.TrimSpace(text))
		}
	}
	if s := ps.log.Lines(); s != "" {
		out = append(out, s)
	}
	return strings.Join(out[max(0, len(out)-5):], "; ")
}

// rebooted reports whether a Firecracker that has ended did so because its guest has rebooted: there is no other way for it to end well.
func (i *instance) rebooted(status syscall.WaitStatus, known bool) bool {
	if known {
		return status.Exited() && status.ExitStatus() == 0
	}
	return strings.Contains(vmm.TailAll(ownLog(&i.m)).Last(), endedWell)
}
