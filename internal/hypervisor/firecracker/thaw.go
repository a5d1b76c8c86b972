package firecracker

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"banger/internal/hypervisor"
	"banger/internal/hypervisor/firecracker/oracle"
	"banger/internal/hypervisor/memory"
	"banger/internal/hypervisor/vmm"
)

// Thaw starts a Firecracker whose guest goes on from f.
//
// It maps the image privately and loads the devices; then the guest's own pages are put over the image's, from outside, before it is
// let go. Devices look into the guest's memory only after that. Nothing is told of the time that has passed: what Firecracker could do about it
// (clock_realtime) would let the guest's monotonic clock jump, and fire every timer; the agent sets the clock that people see.
func (h *Hypervisor) Thaw(ctx context.Context, m hypervisor.Machine, f hypervisor.Frozen, record hypervisor.Record) (hypervisor.Instance, error) {
	facts, err := h.oracle.Ask(ctx)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, h.wrap(&m, "thaw", err)
	}
	m.Drives = slices.Clone(m.Drives) // a freeze moves them
	t, err := h.thawing(ctx, &m, f, facts)
	if err != nil {
		return nil, h.wrap(&m, "thaw", err)
	}
	defer t.Close()
	i := newInstance(h, m, func(held hypervisor.Handles) error {
		defer t.Passed(hypervisor.StageSpawn)
		return record(held)
	})
	if err := i.launch(ctx, func(ctx context.Context, ps *process) error { return t.load(ctx, i, ps) }); err != nil {
		return nil, h.wrap(&m, "thaw", err)
	}
	i.guest.Thawed(f.First)
	i.record = record
	i.lease, t.Lease = t.Lease, nil
	i.serve()
	return i, nil
}

// thaw is one under way.
type thaw struct {
	vmm.Thawing
	stream []byte
}

// thawing checks all that can be checked before a process is there.
func (h *Hypervisor) thawing(ctx context.Context, m *hypervisor.Machine, f hypervisor.Frozen, facts oracle.Facts) (_ *thaw, err error) {
	t := &thaw{Thawing: vmm.Thawing{Frozen: f, Machine: m, Now: stampFor(m, facts)}}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	if err := t.Borrow(ctx, h.vault, false); err != nil {
		return nil, err
	}
	if f.Await == nil {
		err = t.read()
	}
	return t, err
}

func (t *thaw) read() (err error) {
	var head vmm.StateHead
	t.stream, err = t.Read(&head, &head)
	return err
}

// load puts memory and devices in place and lets the guest go on.
func (t *thaw) load(ctx context.Context, i *instance, ps *process) error {
	ps.thawed, i.image = true, t.ImageID()
	n := note{Process: ps.p, Image: i.image}
	if err := i.write(n); err != nil {
		return err
	}
	if err := t.putMemory(i, ps); err != nil {
		return err
	}
	if _, err := ps.api.state(ctx); err != nil { // it listens
		return err
	}
	t.Passed(hypervisor.StageMonitor)
	if t.Await != nil {
		if err := t.Await(ctx); err != nil {
			return err
		}
		if err := t.read(); err != nil {
			return err
		}
	}
	// Not before: the kernel reads once, when a device is made, which chunks each layer holds, and a fork's source wrote into them until now.
	if err := i.takeDrives(ctx, ps); err != nil {
		return err
	}
	if err := t.putState(i, ps); err != nil {
		return err
	}
	l := snapshotLoad{State: "/" + inState, Memory: memoryBackend{"File", "/" + inMemory}, Vsock: vsockOverride{"/" + inVsock}}
	if t.Machine.NIC != nil {
		l.Networks = []networkOverride{{nicID, t.Machine.NIC.TapName}}
	}
	if err := ps.api.put(ctx, "/snapshot/load", l); err != nil {
		var refused *fault
		if errors.As(err, &refused) {
			err = vmm.CannotContinue(err)
		}
		return err
	}
	if err := errors.Join(i.h.o.Host.RemoveJailed(ps.jail, inState), t.Fill(func() (memory.Region, error) { return i.findMemory(ps) })); err != nil {
		return err
	}
	t.Passed(hypervisor.StageMemory)
	for n, d := range t.Machine.Drives { // a clone's disk may be larger than its template's
		if d.ReadOnly {
			continue
		}
		if err := i.tellSize(ctx, ps, n); err != nil {
			return err
		}
	}
	if err := i.SetLink(ctx, false); err != nil {
		return err
	}
	if err := i.beginConsole(); err != nil {
		return err
	}
	t.Passed(hypervisor.StageDevices)
	if t.BeforeRun != nil {
		if err := t.BeforeRun(); err != nil {
			return err
		}
	}
	n.Ran = true
	if err := i.write(n); err != nil {
		return err
	}
	defer t.Passed(hypervisor.StageRun)
	return ps.api.resume(ctx)
}

// putMemory makes the image a file of the jail; a guest whose memory began as zeros gets a file of holes.
func (t *thaw) putMemory(i *instance, ps *process) error {
	h := i.h
	if t.Lease != nil {
		// It is sealed as the daemon's alone, and holds nothing that is anybody's: only who knows its name can get at it.
		if err := os.Chmod(t.Memory, 0o444); err != nil {
			return err
		}
		return h.put(ps.jail, inMemory, t.Memory, os.O_RDONLY, false)
	}
	return t.putNew(i, ps, inMemory, func(f *os.File) error { return f.Truncate(t.Machine.MemoryBytes) })
}

func (t *thaw) putState(i *instance, ps *process) error {
	return t.putNew(i, ps, inState, func(f *os.File) error { _, err := f.Write(t.stream); return err })
}

// putNew makes a file in the jail that has no other name for long.
func (t *thaw) putNew(i *instance, ps *process, name string, fill func(*os.File) error) error {
	path := filepath.Join(t.Machine.Dir, "new-"+name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = i.h.o.Host.LinkIntoJail(ps.jail, name, f, true)
	}
	return errors.Join(err, f.Close(), os.Remove(path))
}
