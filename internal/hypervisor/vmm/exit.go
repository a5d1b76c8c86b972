package vmm

import (
	"fmt"
	"syscall"
)

// Exit is what is known about the end of a VMM.
type Exit struct {
	// Program is the VMM's name, for people.
	Program string
	Status  syscall.WaitStatus
	Known   bool // Status was ours to ask for
	Off     bool // the guest powered off
	Killed  bool // by us
	OOM     bool // the kernel has killed something for want of memory meanwhile
	// Words are the last that the VMM has said.
	Words string
}

// Why says in a clause why the VMM is gone.
func (e Exit) Why() string {
	var why string
	switch {
	case e.Killed:
		return "killed by banger"
	case e.Known && e.Status.Signaled() && e.Status.Signal() == syscall.SIGKILL && e.OOM:
		return "killed by the kernel: the host ran out of memory"
	case e.Known && e.Status.Signaled():
		why = fmt.Sprintf("%s was ended by signal %d (%s)", e.Program, e.Status.Signal(), e.Status.Signal())
	case e.Off:
		return "the guest powered off"
	case e.Known && e.Status.ExitStatus() != 0:
		why = fmt.Sprintf("%s ended with exit code %d", e.Program, e.Status.ExitStatus())
	case !e.Known && e.OOM:
		why = e.Program + " is gone; the kernel was killing processes because the host ran out of memory"
	default:
		why = e.Program + " ended"
	}
	if e.Words != "" {
		why += ": " + e.Words
	}
	return why
}
