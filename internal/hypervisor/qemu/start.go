package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"banger/api"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/qemu/qmp"
	"banger/internal/hypervisor/vmm"
)

// oomScoreAdj makes a guest a likelier victim than the daemon, which can only then tell why it died.
const oomScoreAdj = 500

// endTimeout bounds waiting for a process that was sent SIGKILL.
const endTimeout = 30 * time.Second

// Start launches QEMU stopped, has it recorded, and lets the guest run.
func (h *Hypervisor) Start(ctx context.Context, m hypervisor.Machine, record hypervisor.Record) (hypervisor.Instance, error) {
	f, err := h.oracle.ask(ctx)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, h.wrap(&m, "start", err)
	}
	i, err := h.run(ctx, m, f, launch{memory: memoryCold}, record, func(ctx context.Context, i *instance) error {
		i.greet()
		return i.control.Cont(ctx)
	})
	if err != nil {
		return nil, h.wrap(&m, "start", err)
	}
	i.watchBoot()
	return i, nil
}

// run starts a QEMU and brings it to where begin has greeted the guest and let it go. On error it is gone again.
func (h *Hypervisor) run(ctx context.Context, m hypervisor.Machine, f *facts, l launch, record hypervisor.Record, begin func(context.Context, *instance) error) (*instance, error) {
	log := tailFrom(vmmLog(&m))
	s, err := h.spawn(&m, f, l)
	if err != nil {
		return nil, err
	}
	i := newInstance(h, m, s.p, log, l.memory)
	i.greet = func() { i.guest.Begin(s.agent) }
	i, err = h.bringUp(ctx, s, record, i, begin)
	if err == nil {
		return i, nil
	}
	if kerr := h.undo(s.p); kerr != nil {
		return nil, errors.Join(err, kerr)
	}
	if errors.Is(err, vmm.ErrDied) {
		status, known := h.host.ExitStatus(s.p)
		why := errors.New(vmm.Exit{Program: program, Status: status, Known: known, Words: log.Lines()}.Why())
		// One that was killed says nothing about the state that it was loading.
		if api.CodeOf(err) == api.CodeConflict && (!known || !status.Signaled() || status.Signal() != syscall.SIGKILL) {
			why = vmm.CannotContinue(why)
		}
		err = why
	}
	return nil, err
}

// spawned is a process that has just been started, with the connections that wait for it.
type spawned struct {
	p              host.Process
	control, agent net.Conn
}

// spawn starts the process with its sockets and its tap. The sockets are connected before the process is there: it
// finds both connections waiting when it first looks, so that a guest which is thawed sees its port connected from
// the beginning (connected later, with output of the guest pending, QEMU 7.2 sends nothing until the next connection).
func (h *Hypervisor) spawn(m *hypervisor.Machine, f *facts, l launch) (_ spawned, err error) {
	var s spawned
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	first := []*os.File{}
	for _, c := range []struct {
		path string
		conn *net.Conn
	}{{controlSocket(m), &s.control}, {agentSocket(m), &s.agent}} {
		f, conn, err := vmm.ListenConnected(c.path)
		if err != nil {
			return s, err
		}
		// Closed once the child has its copy, so that a dead QEMU's socket refuses.
		defer f.Close()
		first, *c.conn = append(first, f), conn
	}
	l.files = append(first, l.files...)
	if m.NIC != nil && m.NIC.Tap != nil {
		l.tap = l.hand(m.NIC.Tap)
	}
	machine := *m
	machine.Kernel = h.kernelFile(m.Kernel)
	args, err := arguments(&machine, f, &l)
	if err != nil {
		return s, err
	}
	path, err := h.launcher(m.UID)
	if err != nil {
		return s, err
	}
	if path == "" {
		path = f.Binary
	} else {
		args = append([]string{f.Binary}, args...)
	}
	if err := h.makeConsole(m); err != nil {
		return s, err
	}
	s.p, err = h.host.Spawn(host.Command{
		Path: path, Args: args, Dir: "/", UID: m.UID, GID: m.GID, Groups: groups(m, f),
		Files: l.files, LogPath: vmmLog(m), OOMScoreAdj: oomScoreAdj,
		// Under emulation it is the buffer for translated code that asks for huge pages, of which a machine that does little fills
		// a tenth: clearing them was a tenth of all CPU that a hundred clones took to start.
		SmallPages: f.Accel == "tcg",
		// Emulated CPUs that interrupt one another undo more than they do: with four starts at once on two CPUs each start
		// takes a fifth less CPU this way. What the daemon does goes first.
		Batch: f.Accel == "tcg",
	})
	return s, err
}

func (s *spawned) close() {
	for _, c := range []net.Conn{s.control, s.agent} {
		if c != nil {
			_ = c.Close()
		}
	}
}

// groups: under KVM a VMM of its own uid gets the group that may open /dev/kvm.
func groups(m *hypervisor.Machine, f *facts) []int {
	if m.UID != 0 && f.Accel == "kvm" && f.KVMGroup != 0 {
		return []int{f.KVMGroup}
	}
	return nil
}

// bringUp records the process, shakes hands and lets the guest begin.
func (h *Hypervisor) bringUp(ctx context.Context, s spawned, record hypervisor.Record, i *instance, begin func(context.Context, *instance) error) (*instance, error) {
	if err := record(hypervisor.Handles{Process: s.p}); err != nil {
		s.close()
		i.Detach()
		return nil, fmt.Errorf("cannot record process %d: %w", s.p.PID, err)
	}
	alive, stop := h.whileAlive(ctx, s.p)
	defer stop()
	var err error
	if i.control, err = qmp.New(alive, s.control, i.onEvent); err == nil {
		err = begin(alive, i)
	}
	if err != nil {
		broken := i.control == nil || i.control.Ended()
		i.Detach()
		_ = s.agent.Close()
		// A dying QEMU is seen as a broken connection first: say which it was.
		if broken && ctx.Err() == nil && h.soonDead(s.p) {
			err = fmt.Errorf("%w: %w", vmm.ErrDied, err)
		}
		return nil, err
	}
	i.serve()
	return i, nil
}

// soonDead gives a QEMU that has closed its monitor the time to be gone.
func (h *Hypervisor) soonDead(p host.Process) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return h.host.Wait(ctx, p) == nil
}

// whileAlive is ctx, ended with vmm.ErrDied when the process ends.
func (h *Hypervisor) whileAlive(ctx context.Context, p host.Process) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		if h.host.Wait(ctx, p) == nil {
			cancel(vmm.ErrDied)
		}
	}()
	return ctx, func() { cancel(nil) }
}

// end kills a process and waits until it is gone.
func (h *Hypervisor) end(ctx context.Context, p host.Process) error {
	if err := h.host.Signal(p, syscall.SIGKILL); err != nil {
		return err
	}
	return h.host.Wait(ctx, p)
}

// undo is end for a start that failed, when the caller's context may be over already.
func (h *Hypervisor) undo(p host.Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	return h.end(ctx, p)
}
