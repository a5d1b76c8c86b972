package vm

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"banger/api"
	"banger/internal/guest"
	"banger/internal/host"
	"banger/internal/hypervisor"
)

// liveVM is a VM whose VMM runs, as this daemon knows it.
type liveVM struct {
	id       string
	instance hypervisor.Instance
	agent    *guest.Client
	// gone is closed when the VMM is; exit then says why.
	gone chan struct{}
	exit hypervisor.Event
	// shutdown is true when the guest asked for its own power-off; read after gone.
	shutdown bool
	// main wakes the follower of the main command, see main.go.
	main mainFollower
	// introduction is what a clone or a fork has been told with the greeting, until that has been seen to; answered: its agent said then
	// that the guest is ready. Whoever brings the guest up holds the VM's lock.
	introduction *introduction
	answered     bool
	// ends is set before the VMM is ended for a reason that users should be told of.
	ends atomic.Pointer[api.Error]
	// clock starts the keeper of the guest's clock once.
	clock sync.Once
	// policy wakes idling.watch; holds one.
	policy chan struct{}
}

// isGone reports whether the VMM has ended.
func (l *liveVM) isGone() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

// why is the reason for an error of a call to the guest, where it is known better than by the call.
func (l *liveVM) why(err error) error {
	if e := l.ends.Load(); e != nil && err != nil {
		return e
	}
	return err
}

// vmms is the VMMs that run, as this daemon knows them: it takes each up, watches it, and ends it.
type vmms struct {
	host     host.Host
	machines *machines
	handles  handleCache
	life     *background
	log      *slog.Logger
	// What others do about a VMM, set before the first one runs: happened is told what it says, ended that it is gone, and
	// changed, before that, that who waits for a change should look. watchIdle goes on for as long as it runs.
	happened  func(context.Context, *liveVM, hypervisor.Event)
	changed   func()
	ended     func(context.Context, *liveVM)
	watchIdle func(context.Context, *liveVM)

	// mu protects the following. Nothing waits while holding it.
	mu   sync.Mutex
	live map[string]*liveVM
}

// ids are those of the VMs whose VMMs run.
func (v *vmms) ids() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Collect(maps.Keys(v.live))
}

// detach lets go of all VMMs without touching them.
func (v *vmms) detach() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, l := range v.live {
		l.instance.Detach()
	}
}

// alive is the one answer to "is it running": its VMM, known to this daemon, has not ended.
func (v *vmms) alive(id string) (*liveVM, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l, ok := v.live[id]
	if !ok || l.isGone() {
		return nil, false
	}
	return l, v.host.Alive(l.instance.Process())
}

// add makes a VMM known and watches it until it ends.
func (v *vmms) add(id string, instance hypervisor.Instance) *liveVM {
	l := &liveVM{id: id, instance: instance, agent: guest.New(instance.DialGuest), gone: make(chan struct{}), policy: make(chan struct{}, 1)}
	v.mu.Lock()
	v.live[id] = l
	v.mu.Unlock()
	v.life.do(func(ctx context.Context) { v.watch(ctx, l) })
	v.life.do(func(ctx context.Context) { v.watchIdle(ctx, l) })
	return l
}

// drop forgets a VMM; false when it is not the one we know.
func (v *vmms) drop(l *liveVM) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.live[l.id] != l {
		return false
	}
	delete(v.live, l.id)
	return true
}

// liveOf is the way to a running VM's guest, for banger's own calls; users go by reach.
func (v *vmms) liveOf(vm api.VM) (api.VM, *liveVM, error) {
	if vm.State == api.StatePaused {
		return vm, nil, api.Errorf(api.CodeConflict, "VM %s is paused", vm.Name).WithHint("banger vm unpause %s", vm.Name)
	}
	l, ok := v.alive(vm.ID)
	if !ok || vm.State == api.StateStopped {
		return vm, nil, api.Errorf(api.CodeConflict, "VM %s is %s", vm.Name, vm.State).WithHint("banger vm start %s", vm.Name)
	}
	if !vm.Ready {
		return vm, nil, api.Errorf(api.CodeNotReady, "the guest of VM %s is not ready", vm.Name).WithHint("banger vm logs --console %s", vm.Name)
	}
	return vm, l, nil
}

// watch follows what the VMM says until it is gone.
func (v *vmms) watch(ctx context.Context, l *liveVM) {
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-l.instance.Events():
			if !ok {
				close(l.gone)
				v.changed()
				v.ended(context.WithoutCancel(ctx), l)
				return
			}
			v.happened(ctx, l, e)
		}
	}
}

// processes are the processes that belong to a VM by its handles.
func (h VMHandles) processes() []host.Process {
	return slices.DeleteFunc([]host.Process{h.VMM, h.NetHelper}, func(p host.Process) bool { return p == host.Process{} })
}

// adopt takes up a VM's running VMM: by its handles, or by looking for it when they are lost. It returns nil
// when there is none, or none of ours.
func (v *vmms) adopt(ctx context.Context, vm api.VM) *liveVM {
	if vm.Runtime.KernelDigest == "" { // cut off before anything ran
		return nil
	}
	m, err := v.machines.of(ctx, vm)
	if err != nil {
		v.log.Error("cannot adopt", "vm", vm.ID, "error", err)
		return nil
	}
	h, err := v.handles.Get(vm.ID)
	if err != nil {
		v.log.Warn("looking for the VMM by itself", "vm", vm.ID, "error", err)
	}
	for _, p := range []host.Process{h.VMM, v.machines.find(ctx, vm)} {
		if p == (host.Process{}) || !v.host.Alive(p) {
			continue
		}
		instance, err := v.machines.backend(vm).Hypervisor.Adopt(ctx, m, p, func(held hypervisor.Handles) error { return v.record(vm.ID, held) })
		if err != nil {
			v.log.Warn("not adopted", "vm", vm.ID, "pid", p.PID, "error", err)
			continue
		}
		if err := v.handles.Set(vm.ID, func(h *VMHandles) { h.VMM, h.TapDevice = p, guestOf(vm).Tap }); err != nil {
			v.log.Error("cannot record handles", "vm", vm.ID, "error", err)
		}
		v.log.Info("adopted", "vm", vm.ID, "pid", p.PID)
		return v.add(vm.ID, instance)
	}
	return nil
}

// end ends the VMM that we know, or one that the handles or its own command line name.
func (v *vmms) end(ctx context.Context, vm api.VM) error {
	v.mu.Lock()
	l := v.live[vm.ID]
	v.mu.Unlock()
	var errs []error
	killed := false
	if l != nil {
		if err := l.instance.Kill(ctx); err != nil {
			errs = append(errs, err)
		} else {
			v.drop(l)
			killed = true
		}
	}
	if !killed { // what its handles name may be old, or somebody else's by now, and a start may have been cut off before they named it
		if p := v.machines.find(ctx, vm); p != (host.Process{}) {
			errs = append(errs, v.endProcess(ctx, p))
		}
	}
	return errors.Join(append(errs, v.machines.backend(vm).Hypervisor.Clean(ctx, v.machines.remains(vm.ID, vm.Runtime.UID)))...)
}

func (v *vmms) endProcess(ctx context.Context, p host.Process) error {
	if err := v.host.Signal(p, syscall.SIGKILL); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	return v.host.Wait(ctx, p)
}

func (v *vmms) record(id string, held hypervisor.Handles) error {
	return v.handles.Set(id, func(h *VMHandles) { h.VMM, h.Disks = held.Process, held.Disks })
}

// isUp reports whether a VM's VMM runs.
func (v *vmms) isUp(id string) bool {
	_, alive := v.alive(id)
	return alive
}
