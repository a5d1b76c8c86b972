package firecracker

import (
	"strings"
	"syscall"

	"banger/internal/hypervisor/vmm"
)

// program is the VMM's name, for people.
const program = "Firecracker"

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
