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
	"banger/internal/store"
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

// Why a VM is suspended, as its StopReason says.
const (
	whySuspended = "suspended" // somebody asked for it
	whyIdle      = "idle"      // nobody used it
)

// suspends freezes VMs to disk.
type suspends struct {
	store    *store.Store
	records  *Records
	machines *machines
	vmms     *vmms
	kill     func(ctx context.Context, id, reason string) error
	uses     *uses
	paths    config.Paths
	now      func() time.Time
}

// suspend is called with the VM's lock held. One for idleness is given up when somebody begins to use the VM before
// it is frozen; whoever does so later waits, and wakes it.
func (z *suspends) suspend(ctx context.Context, op *operation.Operation, id, why string) error {
	vm, err := z.store.VM(ctx, id)
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
	_, l, err := z.vmms.liveOf(vm)
	if err != nil {
		return err
	}
	if err := asSpecified(vm); err != nil {
		return err
	}
	m, err := z.machines.of(ctx, vm)
	if err != nil {
		return err
	}
	stamp, err := z.machines.backend(vm).Hypervisor.Stamp(ctx, m)
	if err != nil {
		return err
	}
	p := z.paths.VM(id)
	if err := op.Step(ctx, "sync", func(ctx context.Context) error { return l.agent.Sync(ctx) }); err != nil {
		return err
	}
	thawed, unused := z.uses.freeze(id, why == whyIdle)
	if !unused {
		return errInUse
	}
	defer thawed()
	if why == whyIdle && l.active(ctx) {
		return errInUse
	}
	record := suspended{Stamp: stamp, At: z.now().UTC()}
	if vm.Runtime.Thawed {
		record.TemplateID = vm.Runtime.RootTemplateID
	}
	if err := op.Step(ctx, "freeze", func(ctx context.Context) error { return z.freezeTo(ctx, op, l, p, record) }); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // the state is complete: the rest is only carried out
	if _, err := z.records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		vm.State, vm.Ready, vm.ReadyAt, vm.StopReason = api.StateSuspended, false, nil, why
		return []api.Event{{Kind: "vm.suspended", Data: map[string]string{"reason": why}}}, nil
	}); err != nil {
		// The record is what a start goes by: without it the state must not be, and the guest goes on.
		return errors.Join(err, os.RemoveAll(p.Frozen()), l.instance.Resume(ctx))
	}
	op.Reached("recorded")
	l.ends.Store(api.Errorf(api.CodeConflict, "VM %s was suspended, which has cut this call off", vm.Name).WithHint("banger vm start %s", vm.Name))
	return z.kill(ctx, id, why)
}

var errInUse = api.Errorf(api.CodeCancelled, "the VM is in use again")

// freezeTo leaves a complete state under its final name, with the guest standing; or no file, with the guest running.
func (z *suspends) freezeTo(ctx context.Context, op *operation.Operation, l *liveVM, p config.VMPaths, record suspended) (err error) {
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
func (z *suspends) discardMemory(ctx context.Context, id string) error {
	if !exists(z.paths.VM(id).Frozen()) {
		return nil
	}
	if _, err := z.records.update(ctx, id, func(vm *api.VM) ([]api.Event, error) {
		if vm.State == api.StateSuspended {
			vm.State = api.StateStopping
		}
		return nil, nil
	}); err != nil {
		return err
	}
	return os.RemoveAll(z.paths.VM(id).Frozen())
}
