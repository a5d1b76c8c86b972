package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/durable"
	"banger/internal/hypervisor"
	"banger/internal/operation"
)

// suspended is what stands beside a suspended VM's frozen state, in suspended.json.
type suspended struct {
	// Stamp must be the same to thaw it.
	Stamp hypervisor.Stamp `json:"stamp"`
	// TemplateID is the template whose memory the pages lie on; empty for none.
	TemplateID string    `json:"template_id"`
	At         time.Time `json:"at"`
}

const suspendedFile = "suspended.json"

func frozenFile(p config.VMPaths, name string) string { return filepath.Join(p.Frozen(), name) }

func readSuspended(p config.VMPaths) (suspended, error) {
	var s suspended
	text, err := os.ReadFile(frozenFile(p, suspendedFile))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(text, &s)
}

// differences says what a state was frozen with that is otherwise now; empty if nothing is.
func differences(was, is hypervisor.Stamp) string {
	now := map[string]string{}
	for _, f := range is {
		now[f.Name] = f.Value
	}
	var out []string
	for _, f := range was {
		if now[f.Name] != f.Value {
			out = append(out, fmt.Sprintf("%s %q (now %q)", f.Name, f.Value, now[f.Name]))
		}
	}
	return strings.Join(out, ", ")
}

// Suspend freezes a running VM to disk and gives its memory back. Its start goes on from there. In this
// order, so that a power cut between any two steps loses at most the memory: the guest syncs; freeze; all files
// on disk; rename; record; and only then the VMM ends.
func (s *Service) Suspend(ctx context.Context, ref string) (*operation.Operation, error) {
	vm, err := s.Records.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if vm.State == api.StateStopped {
		return nil, api.Errorf(api.CodeConflict, "VM %s is stopped", vm.Name).WithHint("banger vm start %s", vm.Name)
	}
	return s.Operations.Start("vm.suspend", vm.ID, func(ctx context.Context, op *operation.Operation) error {
		op.SetResult(vm.ID)
		return s.locks.with(ctx, vm.ID, func() error { return s.suspend(ctx, op, vm.ID, whySuspended) })
	}), nil
}

// Why a VM is suspended, as its StopReason says.
const (
	whySuspended = "suspended" // somebody asked for it
	whyIdle      = "idle"      // nobody used it
)

// suspend is called with the VM's lock held. One for idleness is given up when somebody begins to use the VM before
// it is frozen; whoever does so later waits, and wakes it.
func (s *Service) suspend(ctx context.Context, op *operation.Operation, id, why string) error {
	vm, err := s.Store.VM(ctx, id)
	if err != nil {
		return err
	}
	if vm.State == api.StateSuspended {
		return nil
	}
	if why == whyIdle && (vm.Spec.IdleSuspendMS == 0 || len(vm.Pending) > 0) {
		return errInUse
	}
	if len(vm.Pending) > 0 { // its memory does not go with its spec, and could not be thawed
		return api.Errorf(api.CodeConflict, "VM %s has not taken up its new CPUs or memory yet", vm.Name).WithHint("banger vm restart %s", vm.Name)
	}
	_, l, err := s.vmms.liveOf(vm)
	if err != nil {
		return err
	}
	if err := asSpecified(vm); err != nil {
		return err
	}
	m, err := s.machines.of(ctx, vm)
	if err != nil {
		return err
	}
	stamp, err := s.machines.backend(vm).Hypervisor.Stamp(ctx, m)
	if err != nil {
		return err
	}
	p := s.Paths.VM(id)
	if err := op.Step(ctx, "sync", func(ctx context.Context) error { return l.agent.Sync(ctx) }); err != nil {
		return err
	}
	thawed, unused := s.uses.freeze(id, why == whyIdle)
	if !unused {
		return errInUse
	}
	defer thawed()
	if why == whyIdle && s.guestActive(ctx, l) {
		return errInUse
	}
	record := suspended{Stamp: stamp, At: s.Now().UTC()}
	if vm.Runtime.Thawed {
		record.TemplateID = vm.Runtime.RootTemplateID
	}
	if err := op.Step(ctx, "freeze", func(ctx context.Context) error { return s.freezeTo(ctx, op, l, p, record) }); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // the state is complete: the rest is only carried out
	if _, err := s.Records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		vm.State, vm.Ready, vm.ReadyAt, vm.StopReason = api.StateSuspended, false, nil, why
		return []api.Event{{Kind: "vm.suspended", Data: map[string]string{"reason": why}}}, nil
	}); err != nil {
		// The record is what a start goes by: without it the state must not be, and the guest goes on.
		return errors.Join(err, os.RemoveAll(p.Frozen()), l.instance.Resume(ctx))
	}
	op.Reached("recorded")
	l.ends.Store(api.Errorf(api.CodeConflict, "VM %s was suspended, which has cut this call off", vm.Name).WithHint("banger vm start %s", vm.Name))
	return s.kill(ctx, id, why)
}

var errInUse = api.Errorf(api.CodeCancelled, "the VM is in use again")

// freezeTo leaves a complete state under its final name, with the guest standing; or no file, with the guest running.
func (s *Service) freezeTo(ctx context.Context, op *operation.Operation, l *liveVM, p config.VMPaths, record suspended) (err error) {
	dir := p.FrozenNew()
	if err := errors.Join(os.RemoveAll(dir), os.RemoveAll(p.Frozen()), os.Mkdir(dir, 0o700)); err != nil {
		return err
	}
	stands := false
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
			if stands {
				err = errors.Join(err, l.instance.Resume(context.WithoutCancel(ctx)))
			}
		}
	}()
	if _, err := l.instance.Freeze(ctx, hypervisor.Freeze{Dir: dir, Stage: op.Stage}); err != nil {
		return err
	}
	stands = true
	op.Reached("frozen")
	text, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(dir, suspendedFile), text, 0o600); err != nil {
		return err
	}
	op.Reached("described")
	if err := os.Rename(dir, p.Frozen()); err != nil {
		return err
	}
	op.Reached("renamed")
	return durable.SyncDir(p.Dir)
}

// discardMemory makes a suspended VM one that was cut off from power; called with its lock held.
func (s *Service) discardMemory(ctx context.Context, id string) error {
	if !exists(s.Paths.VM(id).Frozen()) {
		return nil
	}
	if _, err := s.Records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		if vm.State == api.StateSuspended {
			vm.State = api.StateStopping
		}
		return nil, nil
	}); err != nil {
		return err
	}
	return os.RemoveAll(s.Paths.VM(id).Frozen())
}

// Pause stops a VM's CPUs; it keeps its memory and its place on the network.
func (s *Service) Pause(ctx context.Context, ref string) (api.VM, error) {
	return s.pausing(ctx, ref, api.StateRunning, api.StatePaused, "vm.paused", func(ctx context.Context, l *liveVM) error {
		return l.instance.Pause(ctx)
	})
}

// Unpause lets a paused VM go on, and sets its clock.
func (s *Service) Unpause(ctx context.Context, ref string) (api.VM, error) {
	return s.pausing(ctx, ref, api.StatePaused, api.StateRunning, "vm.unpaused", func(ctx context.Context, l *liveVM) error {
		if err := l.instance.Resume(ctx); err != nil {
			return err
		}
		return l.agent.StepClock(ctx, s.Now())
	})
}

func (s *Service) pausing(ctx context.Context, ref string, from, to api.State, event string, fn func(context.Context, *liveVM) error) (api.VM, error) {
	vm, err := s.Records.Get(ctx, ref)
	if err != nil {
		return vm, err
	}
	err = s.locks.with(ctx, vm.ID, func() error {
		if vm, err = s.Store.VM(ctx, vm.ID); err != nil || vm.State == to {
			return err
		}
		l, alive := s.vmms.alive(vm.ID)
		if vm.State != from || !alive {
			return api.Errorf(api.CodeConflict, "VM %s is %s", vm.Name, vm.State).WithHint("banger vm start %s", vm.Name)
		}
		if err := fn(ctx, l); err != nil {
			return err
		}
		vm, err = s.Records.update(ctx, vm.ID, func(vm *api.VM) ([]api.Event, error) {
			vm.State = to
			return []api.Event{{Kind: event}}, nil
		})
		return err
	})
	return vm, err
}
