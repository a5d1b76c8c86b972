package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

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
func (h *Hypervisor) Start(ctx context.Context, m hypervisor.Machine, record func(host.Process) error) (hypervisor.Instance, error) {
	f, err := h.oracle.ask(ctx)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, h.wrap(&m, "start", err)
	}
	log := tailFrom(vmmLog(&m))
	p, err := h.spawn(&m, f)
	if err != nil {
		return nil, h.wrap(&m, "start", err)
	}
	i, err := h.bringUp(ctx, m, p, record, log)
	if err == nil {
		return i, nil
	}
	if kerr := h.undo(p); kerr != nil {
		return nil, h.wrap(&m, "start", errors.Join(err, kerr))
	}
	if errors.Is(err, vmm.ErrDied) {
		status, known := h.host.ExitStatus(p)
		err = errors.New(wordExit(exit{status: status, known: known, stderr: log.lines()}))
	}
	return nil, h.wrap(&m, "start", err)
}

// spawn starts the process with its sockets and its tap.
func (h *Hypervisor) spawn(m *hypervisor.Machine, f *facts) (host.Process, error) {
	args, err := arguments(m, f)
	if err != nil {
		return host.Process{}, err
	}
	var files []*os.File
	for _, path := range []string{controlSocket(m), agentSocket(m)} {
		s, err := vmm.Listen(path)
		if err != nil {
			return host.Process{}, err
		}
		// Closed once the child has its copy, so that a dead QEMU's socket refuses.
		defer s.Close()
		files = append(files, s)
	}
	if m.NIC != nil && m.NIC.Tap != nil {
		files = append(files, m.NIC.Tap)
	}
	uid, gid := credentials(m, f)
	return h.host.Spawn(host.Command{
		Path: f.Binary, Args: args, Dir: "/", UID: uid, GID: gid,
		Files: files, LogPath: vmmLog(m), OOMScoreAdj: oomScoreAdj,
	})
}

// credentials: under KVM a VMM of its own uid gets the group that may open /dev/kvm.
func credentials(m *hypervisor.Machine, f *facts) (uid, gid int) {
	if m.UID != 0 && f.Accel == "kvm" && f.KVMGroup != 0 {
		return m.UID, f.KVMGroup
	}
	return m.UID, m.GID
}

// bringUp records the process, connects and lets the guest run.
func (h *Hypervisor) bringUp(ctx context.Context, m hypervisor.Machine, p host.Process, record func(host.Process) error, log *logTail) (*instance, error) {
	if err := record(p); err != nil {
		return nil, fmt.Errorf("cannot record process %d: %w", p.PID, err)
	}
	alive, stop := h.whileAlive(ctx, p)
	defer stop()
	i := newInstance(h, m, p, log)
	conn, _, err := vmm.Connect(alive, controlSocket(&m))
	if err == nil {
		i.control, err = qmp.New(alive, conn, i.onEvent)
	}
	if err == nil {
		err = i.control.Cont(alive)
	}
	if err != nil {
		i.Detach()
		// A dying QEMU is seen as a broken connection first: say which it was.
		if ctx.Err() == nil && h.soonDead(p) {
			err = vmm.ErrDied
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
