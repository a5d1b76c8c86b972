package firecracker

import (
	"context"
	"errors"
	"fmt"
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
	defer t.close()
	i := newInstance(h, m, func(held hypervisor.Handles) error {
		defer t.stage(hypervisor.StageSpawn)
		return record(held)
	})
	if err := i.launch(ctx, func(ctx context.Context, ps *process) error { return t.load(ctx, i, ps) }); err != nil {
		return nil, h.wrap(&m, "thaw", err)
	}
	i.record = record
	i.lease, t.lease = t.lease, nil
	i.serve()
	return i, nil
}

// thaw is one under way.
type thaw struct {
	m      *hypervisor.Machine
	frozen hypervisor.Frozen
	stamp  hypervisor.Stamp
	stream []byte
	lease  *memory.Lease // nil where the memory began as zeros
	// pages delivers the own pages, read and checked while Firecracker starts; nil for none.
	pages chan pagesRead
}

type pagesRead struct {
	pages *memory.Pages
	err   error
}

// thawing checks all that can be checked before a process is there.
func (h *Hypervisor) thawing(ctx context.Context, m *hypervisor.Machine, f hypervisor.Frozen, facts oracle.Facts) (_ *thaw, err error) {
	t := &thaw{m: m, frozen: f, stamp: stampFor(m, facts)}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	if f.Memory != "" {
		if t.lease, err = h.vault.Lend(ctx, f.Memory, false); err != nil {
			return nil, damage(err)
		}
		if t.lease.Image.Size != m.MemoryBytes {
			return nil, vmm.CannotContinue(fmt.Errorf("the memory image has %d MiB, the machine %d", t.lease.Image.Size>>20, m.MemoryBytes>>20))
		}
	}
	if f.Await == nil {
		err = t.read()
	}
	return t, err
}

// read takes the device state, and begins to read the pages.
func (t *thaw) read() error {
	var head stateHead
	stream, err := vmm.ReadState(t.frozen.Device, &head)
	if err != nil {
		return err
	}
	if differ := vmm.Differing(head.Stamp, t.stamp); differ != "" {
		return vmm.CannotContinue(fmt.Errorf("it was frozen with %s", differ))
	}
	if head.Whole != (t.frozen.Pages == "") || head.Whole && t.frozen.Memory == "" {
		return vmm.CannotContinue(errors.New("device state and memory were not frozen together"))
	}
	t.stream = stream
	if t.frozen.Pages != "" {
		t.pages = make(chan pagesRead, 1)
		go func() {
			p, err := memory.ReadPages(t.frozen.Pages)
			t.pages <- pagesRead{p, err}
		}()
	}
	return nil
}

// damage gives a file's damage, or its absence, the code that says so.
func damage(err error) error {
	if errors.Is(err, memory.ErrDamaged) || errors.Is(err, os.ErrNotExist) {
		return vmm.CannotContinue(err)
	}
	return err
}

func (t *thaw) close() {
	t.lease.Release()
	if t.pages != nil {
		go func() { _ = (<-t.pages).pages.Close() }()
	}
}

func (t *thaw) stage(name string) {
	if t.frozen.Stage != nil {
		t.frozen.Stage(name)
	}
}

func (t *thaw) imageID() memory.ImageID {
	if t.lease == nil {
		return memory.ImageID{}
	}
	return t.lease.Image.ID
}

// load puts memory and devices in place and lets the guest go on.
func (t *thaw) load(ctx context.Context, i *instance, ps *process) error {
	ps.thawed, i.image = true, t.imageID()
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
	t.stage(hypervisor.StageMonitor)
	if t.frozen.Await != nil {
		if err := t.frozen.Await(ctx); err != nil {
			return err
		}
		if err := t.read(); err != nil {
			return err
		}
	}
	if err := t.putState(i, ps); err != nil {
		return err
	}
	l := snapshotLoad{State: "/" + inState, Memory: memoryBackend{"File", "/" + inMemory}, Vsock: vsockOverride{"/" + inVsock}}
	if t.m.NIC != nil {
		l.Networks = []networkOverride{{nicID, t.m.NIC.TapName}}
	}
	if err := ps.api.put(ctx, "/snapshot/load", l); err != nil {
		var refused *fault
		if errors.As(err, &refused) {
			err = vmm.CannotContinue(err)
		}
		return err
	}
	if err := errors.Join(i.h.o.Host.RemoveJailed(ps.jail, inState), t.fill(i, ps)); err != nil {
		return err
	}
	t.stage(hypervisor.StageMemory)
	for n, d := range t.m.Drives { // a clone's disk may be larger than its template's
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
	t.stage(hypervisor.StageDevices)
	if t.frozen.BeforeRun != nil {
		if err := t.frozen.BeforeRun(); err != nil {
			return err
		}
	}
	n.Ran = true
	if err := i.write(n); err != nil {
		return err
	}
	defer t.stage(hypervisor.StageRun)
	return ps.api.resume(ctx)
}

// putMemory makes the image a file of the jail; a guest whose memory began as zeros gets a file of holes.
func (t *thaw) putMemory(i *instance, ps *process) error {
	h := i.h
	if t.lease != nil {
		// It is sealed as the daemon's alone, and holds nothing that is anybody's: only who knows its name can get at it.
		if err := os.Chmod(t.frozen.Memory, 0o444); err != nil {
			return err
		}
		return h.put(ps.jail, inMemory, t.frozen.Memory, os.O_RDONLY, false)
	}
	return t.putNew(i, ps, inMemory, func(f *os.File) error { return f.Truncate(t.m.MemoryBytes) })
}

func (t *thaw) putState(i *instance, ps *process) error {
	return t.putNew(i, ps, inState, func(f *os.File) error { _, err := f.Write(t.stream); return err })
}

// putNew makes a file in the jail that has no other name for long.
func (t *thaw) putNew(i *instance, ps *process, name string, fill func(*os.File) error) error {
	path := filepath.Join(t.m.Dir, "new-"+name)
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

// fill puts the guest's own pages over the image.
func (t *thaw) fill(i *instance, ps *process) error {
	if t.pages == nil {
		return nil
	}
	read := <-t.pages
	t.pages = nil
	if read.err != nil {
		return damage(read.err)
	}
	p := read.pages
	if p.Size != t.m.MemoryBytes || p.Image != t.imageID() {
		return errors.Join(vmm.CannotContinue(errors.New("the pages belong to another memory image")), p.Close())
	}
	r, err := i.findMemory(ps)
	if err != nil {
		return errors.Join(err, p.Close())
	}
	return errors.Join(r.Write(p.Runs, p.Data), p.Close())
}
