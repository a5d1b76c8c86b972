package cli

import (
	"context"
	"time"

	"banger/api"
	"banger/client"
)

// soon is quiet for somebody who sits before a terminal.
const soon = 500 * time.Millisecond

// sayWaking tells whoever waits for a call to a VM's guest that the VM has to be woken first, where that takes long. The
// caller calls the returned function when the call is over.
func (a *app) sayWaking(c *client.Client, ref string) func() {
	ctx, cancel := context.WithCancel(a.hard)
	wait, end := quiet, ""
	if isTerminal(a.Err) {
		wait, end = soon, "\r" // it may be a mere wire to the guest's by now
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		vm, err := c.VM(ctx, ref)
		if err == nil && vm.State != api.StateRunning && reachable(vm) {
			a.note("%s was suspended: waking it ...%s", vm.Name, end)
		}
	}()
	return func() { cancel(); <-done }
}
