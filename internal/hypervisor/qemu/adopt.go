package qemu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger/api"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/qemu/qmp"
	"banger/internal/hypervisor/vmm"
)

// adoptTimeout bounds the conversation with a QEMU that should answer within milliseconds.
const adoptTimeout = 10 * time.Second

// Adopt takes up a QEMU that an earlier daemon started. That it is this VM's is told by its
// program, its command line, its uid and, beyond doubt, by the kernel's word on who
// listens on the control socket.
func (h *Hypervisor) Adopt(ctx context.Context, m hypervisor.Machine, p host.Process, _ hypervisor.Record) (hypervisor.Instance, error) {
	if !h.host.Alive(p) {
		return nil, h.wrap(&m, "adopt", fmt.Errorf("process %d is gone", p.PID))
	}
	args, ours := h.isOurs(&m, p.PID)
	if !ours {
		return nil, h.wrap(&m, "adopt", fmt.Errorf("process %d is another program", p.PID))
	}
	ctx, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	ctx, stop := h.whileAlive(ctx, p)
	defer stop()
	i := newInstance(h, m, p, tailFrom(vmmLog(&m)), memoryOf(args))
	if err := i.reconnect(ctx, true); err != nil {
		i.Detach()
		return nil, h.wrap(&m, "adopt", err)
	}
	i.serve()
	return i, nil
}

// memoryOf finds the id of the memory backend in a command line.
func memoryOf(args []string) string {
	for n, a := range args[:max(0, len(args)-1)] {
		if a == "-machine" {
			_, id, _ := strings.Cut(args[n+1], "memory-backend=")
			return id
		}
	}
	return ""
}

// reconnect opens the control connection of a running QEMU and sets right what was missed.
func (i *instance) reconnect(ctx context.Context, adopting bool) error {
	conn, pid, err := vmm.Connect(ctx, controlSocket(&i.m))
	if err != nil {
		return err
	}
	if pid != i.p.PID {
		_ = conn.Close()
		return fmt.Errorf("process %d listens on its control socket, not %d", pid, i.p.PID)
	}
	c, err := qmp.New(ctx, conn, i.onEvent)
	if err != nil {
		return err
	}
	err = i.endLeftJobs(ctx, c)
	state := ""
	if err == nil {
		state, err = c.RunState(ctx)
	}
	if err == nil {
		err = i.takeUp(ctx, c, state, adopting)
	}
	if err == nil {
		i.dropLeft(ctx, c)
	}
	if err == nil {
		err = i.setControl(c)
	}
	if err != nil {
		_ = c.Close()
	}
	return err
}

// dropLeft closes layers that were opened for a freeze that was cut off before the guest was on them: their names are wanted again.
func (i *instance) dropLeft(ctx context.Context, c *qmp.Client) {
	for n, d := range i.m.Drives {
		if d.ReadOnly {
			continue
		}
		if err := i.dropUnused(ctx, c, n); err != nil {
			i.h.log.Warn("layers of a drive are left open", "vm", i.m.ID, "drive", d.Serial, "error", err)
		}
	}
}

// takeUp goes on from the state that the guest is in.
func (i *instance) takeUp(ctx context.Context, c *qmp.Client, state string, adopting bool) error {
	switch state {
	case "prelaunch", "restore-vm", "inmigrate":
		if i.memory != memoryCold {
			return api.Errorf(api.CodeConflict, "its thaw was cut off")
		}
		// An earlier daemon ended before the guest's first instruction.
		return c.Cont(ctx)
	case "paused", "save-vm":
		if adopting {
			// By whom is not known here.
			i.standing.Store(true)
			return nil
		}
		if !i.Standing() {
			return c.Cont(ctx)
		}
	case "io-error":
		i.pausedBy(diskFull, time.Now())
	}
	return nil
}

// Clean has nothing to do: what QEMU holds ends with it, and its sockets lie in the directory of the VM.
func (*Hypervisor) Clean(context.Context, hypervisor.Machine) error { return nil }

// Find asks the control socket whose it is, and looks through all processes if that fails.
func (h *Hypervisor) Find(ctx context.Context, m hypervisor.Machine) (host.Process, bool) {
	if conn, pid, err := vmm.Connect(ctx, controlSocket(&m)); err == nil {
		_ = conn.Close()
		if p, ok := h.identify(&m, pid); ok {
			return p, true
		}
	}
	pids, err := h.host.PIDs()
	if err != nil {
		return host.Process{}, false
	}
	for _, pid := range pids {
		if p, ok := h.identify(&m, pid); ok {
			return p, true
		}
	}
	return host.Process{}, false
}

// identify pins the process first, so that what is then checked is what is returned.
func (h *Hypervisor) identify(m *hypervisor.Machine, pid int) (host.Process, bool) {
	p, ok := h.host.Identify(pid)
	if !ok {
		return host.Process{}, false
	}
	if _, ours := h.isOurs(m, pid); !ours || !h.host.Alive(p) {
		return host.Process{}, false
	}
	return p, true
}

// isOurs checks program, arguments and uid: anybody may run a QEMU with such arguments, but not as this user.
func (h *Hypervisor) isOurs(m *hypervisor.Machine, pid int) (args []string, ours bool) {
	args, err := h.host.CommandLine(pid)
	if err != nil || len(args) == 0 || filepath.Base(args[0]) != filepath.Base(h.binary) || !slices.Contains(args, identifies(m)) {
		return nil, false
	}
	want := m.UID
	if want == 0 {
		want = os.Geteuid()
	}
	uid, err := h.host.Owner(pid)
	return args, err == nil && uid == want
}
