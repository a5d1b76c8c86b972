package vm

import (
	"cmp"
	"context"
	"strconv"
	"strings"

	"banger/api"
)

// Wait returns when a condition is met: "exit" (the main command has ended; for a VM that was given
// none, the VM has stopped), "ready", "stopped", or "port:N" (something in the guest accepts connections there).
// A VM that is deleted meanwhile ends the wait: met for "stopped", not found for the others.
func (g *Guests) Wait(ctx context.Context, ref, condition string) (api.WaitResult, error) {
	vm, err := g.records.Get(ctx, ref)
	if err != nil {
		return api.WaitResult{}, err
	}
	condition = cmp.Or(condition, "exit")
	met, err := g.condition(condition)
	if err != nil {
		return api.WaitResult{}, err
	}
	for {
		changed := g.records.changes.Next()
		now, err := g.store.VM(ctx, vm.ID)
		if api.CodeOf(err) == api.CodeNotFound {
			return g.waitedForDeleted(ctx, vm, condition)
		} else if err != nil {
			return api.WaitResult{}, err
		}
		vm = now
		ok, retry, err := met(ctx, vm)
		if err != nil {
			return api.WaitResult{}, err
		}
		if ok {
			return api.WaitResult{Condition: condition, VM: vm, Main: vm.Main}, nil
		}
		select {
		case <-changed:
		case <-retry:
		case <-ctx.Done():
			return api.WaitResult{}, api.Errorf(api.CodeTimeout, "VM %s: %q did not happen in time: it is %s", vm.Name, condition, describe(vm))
		case <-g.life.ctx.Done():
			return api.WaitResult{}, errDaemonEnds
		}
	}
}

// waitedForDeleted answers from the events: a VM that is removed with its command's end may be gone
// before anybody has read its record.
func (g *Guests) waitedForDeleted(ctx context.Context, vm api.VM, condition string) (api.WaitResult, error) {
	result := api.WaitResult{Condition: condition, VM: vm, Main: vm.Main}
	if condition == "stopped" {
		return result, nil
	}
	ended, found, err := g.store.LastEvent(ctx, vm.ID, "main.ended")
	if err != nil {
		return result, err
	}
	if !found || condition != "exit" {
		return result, api.Errorf(api.CodeNotFound, "VM %s was deleted", vm.Name)
	}
	main := &api.MainCommand{StartedAt: ended.At}
	if vm.Main != nil {
		*main = *vm.Main
	}
	main.EndedAt, main.Signal, main.Error = &ended.At, ended.Data["signal"], ended.Data["error"]
	if code, err := strconv.Atoi(ended.Data["exit_code"]); err == nil {
		main.ExitCode = &code
	}
	result.Main = main
	return result, nil
}

func describe(vm api.VM) string {
	if vm.State == api.StateRunning && !vm.Ready {
		return "running, not ready"
	}
	return string(vm.State)
}

// condition gives a function that says whether it is met; retry, if not nil, tells when to ask again
// though no record has changed.
func (g *Guests) condition(name string) (func(context.Context, api.VM) (ok bool, retry <-chan struct{}, err error), error) {
	switch {
	case name == "exit":
		return func(_ context.Context, vm api.VM) (bool, <-chan struct{}, error) {
			if vm.Main == nil {
				return vm.State == api.StateStopped, nil, nil
			}
			return vm.Main.EndedAt != nil, nil, nil
		}, nil
	case name == "ready":
		return func(_ context.Context, vm api.VM) (bool, <-chan struct{}, error) {
			if vm.LastError != nil && !vm.Ready {
				return false, nil, api.Errorf(api.CodeNotReady, "VM %s: %s", vm.Name, vm.LastError.Message).WithHint("banger vm logs --console %s", vm.Name)
			}
			return vm.Ready, nil, nil
		}, nil
	case name == "stopped":
		return func(_ context.Context, vm api.VM) (bool, <-chan struct{}, error) {
			return vm.State == api.StateStopped, nil, nil
		}, nil
	case strings.HasPrefix(name, "port:"):
		port, err := strconv.Atoi(strings.TrimPrefix(name, "port:"))
		if err != nil || port < 1 || port > 65535 {
			return nil, api.Errorf(api.CodeInvalid, "%q names no port", name)
		}
		return func(ctx context.Context, vm api.VM) (bool, <-chan struct{}, error) {
			if l, ok := g.vmms.alive(vm.ID); ok && vm.Ready {
				if c, err := l.agent.Dial(ctx, port); err == nil {
					c.Close()
					return true, nil, nil
				}
			}
			return false, after(ctx, portEvery), nil
		}, nil
	}
	return nil, api.Errorf(api.CodeInvalid, "cannot wait for %q: give exit, ready, stopped or port:N", name)
}
