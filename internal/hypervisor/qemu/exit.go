package qemu

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
	stderr string
}

// wordExit says in a clause why a VMM is gone.
func wordExit(e exit) string {
	var why string
	switch {
	case e.killed:
		return "killed by banger"
	case e.known && e.status.Signaled() && e.status.Signal() == syscall.SIGKILL && e.oom:
		return "killed by the kernel: the host ran out of memory"
	case e.known && e.status.Signaled():
		why = fmt.Sprintf("QEMU was ended by signal %d (%s)", e.status.Signal(), e.status.Signal())
	case e.off:
		return "the guest powered off"
	case e.known && e.status.ExitStatus() != 0:
		why = fmt.Sprintf("QEMU ended with exit code %d", e.status.ExitStatus())
	case !e.known && e.oom:
		why = "QEMU is gone; the kernel was killing processes because the host ran out of memory"
	default:
		why = "QEMU ended"
	}
	if e.stderr != "" {
		why += ": " + e.stderr
	}
	return why
}

// tailFrom begins to read QEMU's stderr.
func tailFrom(path string) *vmm.LogTail {
	return vmm.TailFrom(path, func(s string) string {
		if _, rest, ok := strings.Cut(s, "qemu-system-x86_64: "); ok {
			s = rest
		}
		// QEMU on a TCG host says this of CPU features that no guest of ours needs.
		if strings.Contains(s, "TCG doesn't support requested feature") {
			return ""
		}
		return s
	})
}
