package firecracker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger/api"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/vmm"
)

// adoptTimeout bounds the conversation with a Firecracker that should answer within milliseconds.
const adoptTimeout = 10 * time.Second

// Adopt takes up a Firecracker that an earlier daemon started. That it is this VM's is told by its command line, its uid and, beyond
// doubt, by the kernel's word on its root directory and on who listens on the control socket.
func (h *Hypervisor) Adopt(ctx context.Context, m hypervisor.Machine, p host.Process, record hypervisor.Record) (hypervisor.Instance, error) {
	if !h.o.Host.Alive(p) {
		return nil, h.wrap(&m, "adopt", fmt.Errorf("process %d is gone", p.PID))
	}
	if !h.isOurs(&m, p) {
		return nil, h.wrap(&m, "adopt", fmt.Errorf("process %d is another program", p.PID))
	}
	ctx, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	m.Drives = slices.Clone(m.Drives)
	i := newInstance(h, m, record)
	if err := i.takeUp(ctx, p); err != nil {
		i.Detach()
		return nil, h.wrap(&m, "adopt", err)
	}
	i.serve()
	return i, nil
}

// takeUp finds out in which state the guest is.
func (i *instance) takeUp(ctx context.Context, p host.Process) error {
	h := i.h
	ps := &process{p: p, jail: h.jailOf(&i.m), log: vmm.TailFrom(vmmLog(&i.m), nil), next: make(chan struct{})}
	h.connect(ps)
	if err := i.publish(ps); err != nil {
		return err
	}
	state, err := ps.api.state(ctx)
	if err != nil {
		return err
	}
	note, err := i.readNote(p)
	if err != nil {
		return err
	}
	if note != nil {
		ps.thawed, i.image = true, note.Image
	}
	// An earlier daemon ended before the guest's first instruction.
	if state == stateNotStarted || state == statePaused && note != nil && !note.Ran {
		return api.Errorf(api.CodeConflict, "its start was cut off")
	}
	i.standing.Store(state == statePaused)
	return i.takeUpDrives(ctx, ps)
}

// takeUpDrives finds the devices as they are: a freeze that was cut off may have left one suspended, or on a layer that the machine
// does not know of.
func (i *instance) takeUpDrives(ctx context.Context, ps *process) error {
	var errs []error
	ps.drives = make([]attached, len(i.m.Drives))
	for n := range i.m.Drives {
		d := &i.m.Drives[n]
		if !i.h.isDevice(*d) {
			continue
		}
		name := deviceName(i.m.ID, d.Serial)
		top, err := i.h.o.Attacher.Top(ctx, name)
		if err == nil {
			err = i.h.o.Attacher.Resume(ctx, name)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d.Path = top
		a, err := i.h.o.Attacher.Attach(ctx, name, top, d.ReadOnly) // it is there, and taken as it is
		errs = append(errs, err)
		ps.drives[n] = attached{a, d.Serial}
	}
	return errors.Join(errs...)
}

// Find looks for the process with the machine's jail for its root.
func (h *Hypervisor) Find(_ context.Context, m hypervisor.Machine) (host.Process, bool) {
	pids, err := h.o.Host.PIDs()
	if err != nil {
		return host.Process{}, false
	}
	for _, pid := range pids {
		if !h.looksOurs(&m, pid) {
			continue
		}
		if p, ok := h.o.Host.Identify(pid); ok && h.isOurs(&m, p) {
			return p, true
		}
	}
	return host.Process{}, false
}

// looksOurs goes by the command line, which anybody can have.
func (h *Hypervisor) looksOurs(m *hypervisor.Machine, pid int) bool {
	args, err := h.o.Host.CommandLine(pid)
	if err != nil || len(args) < 3 {
		return false
	}
	n := slices.Index(args, "--id")
	return n >= 0 && n+1 < len(args) && args[n+1] == h.jailOf(m).Name
}

// isOurs goes by the uid and the root directory: only root can give a process either. A jailer that has not become Firecracker yet
// is none of ours.
func (h *Hypervisor) isOurs(m *hypervisor.Machine, p host.Process) bool {
	if !h.looksOurs(m, p.PID) {
		return false
	}
	uid, err := h.o.Host.Owner(p.PID)
	if err != nil {
		return false
	}
	j := h.jailOf(m)
	// A jail that is being made belongs to a start that was cut off: its process is to be found, too.
	return (uid == m.UID && h.o.Host.InJail(j, p)) || (uid == 0 && !h.o.Host.InJail(j, p) && h.isJailer(p))
}

// isJailer: between its start and its becoming Firecracker it has the name of the VM in its arguments, and is root's.
func (h *Hypervisor) isJailer(p host.Process) bool {
	args, err := h.o.Host.CommandLine(p.PID)
	return err == nil && len(args) > 0 && strings.Contains(filepath.Base(args[0]), "jailer") && h.o.Host.Alive(p)
}
