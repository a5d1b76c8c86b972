package qemu

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"banger/internal/hypervisor"
	"banger/internal/hypervisor/memory"
	"banger/internal/hypervisor/qemu/qmp"
	"banger/internal/hypervisor/vmm"
)

// Thaw starts a QEMU whose guest goes on from f.
//
// QEMU sets its machine up and waits for a migration. Memory is put in place first, from outside: devices look into it
// while they load. The "migration" is then device state only. A QEMU that waits for a migration leaves
// the memory of its firmware empty, so that is put in place as well.
func (h *Hypervisor) Thaw(ctx context.Context, m hypervisor.Machine, f hypervisor.Frozen, record hypervisor.Record) (hypervisor.Instance, error) {
	facts, err := h.oracle.ask(ctx)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, h.wrap(&m, "thaw", err)
	}
	t, err := h.thawing(ctx, &m, f, facts)
	if err != nil {
		return nil, h.wrap(&m, "thaw", err)
	}
	defer t.close()
	i, err := h.run(ctx, m, facts, t.launch, func(held hypervisor.Handles) error {
		defer t.stage(hypervisor.StageSpawn)
		return record(held)
	}, t.load)
	if err != nil {
		return nil, h.wrap(&m, "thaw", err)
	}
	i.lease, t.lease = t.lease, nil
	return i, nil
}

// thaw is one under way.
type thaw struct {
	m      *hypervisor.Machine
	frozen hypervisor.Frozen
	launch launch
	state  *state
	stamp  hypervisor.Stamp
	lease  *memory.Lease // nil where the memory began as zeros
	// device holds the device state, inherited is the descriptor that QEMU reads it from.
	device, inherited *os.File
	// pages delivers the own pages, read and checked while QEMU starts; both nil for none.
	pages chan pagesRead
}

type pagesRead struct {
	pages *memory.Pages
	err   error
}

// thawing checks all that can be checked before a process is there.
func (h *Hypervisor) thawing(ctx context.Context, m *hypervisor.Machine, f hypervisor.Frozen, facts *facts) (_ *thaw, err error) {
	t := &thaw{m: m, frozen: f, stamp: stampFor(m, facts)}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	t.launch.memory = memoryThawed
	if f.Memory != "" {
		if err := t.borrow(ctx, h.vault); err != nil {
			return nil, err
		}
	}
	if t.device, err = anonymousFile("banger-state"); err != nil {
		return nil, err
	}
	r, err := again(t.device, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	t.inherited = r
	t.launch.state = handFirst(&t.launch, r)
	if f.Await == nil {
		err = t.read()
	}
	return t, err
}

// borrow takes the memory image.
func (t *thaw) borrow(ctx context.Context, v *memory.Vault) (err error) {
	// VMMs of other uids, and only they, could otherwise write into the image.
	sealed := t.m.UID != 0 && t.m.UID != os.Geteuid()
	if t.lease, err = v.Lend(ctx, t.frozen.Memory, sealed); err != nil {
		return damage(err)
	}
	if t.lease.Image.Size != t.m.MemoryBytes {
		return cannotContinue(fmt.Errorf("the memory image has %d MiB, the machine %d", t.lease.Image.Size>>20, t.m.MemoryBytes>>20))
	}
	id := t.lease.Image.ID
	t.launch.memory += hex.EncodeToString(id[:])
	t.launch.image = t.frozen.Memory
	if sealed {
		t.launch.image = fmt.Sprintf("/proc/self/fd/%d", handFirst(&t.launch, t.lease.Copy))
	}
	return nil
}

// read takes the device state, and begins to read the pages.
func (t *thaw) read() error {
	s, err := readState(t.frozen.Device)
	if err != nil {
		return err
	}
	if differ := vmm.Differing(s.Stamp, t.stamp); differ != "" {
		return cannotContinue(fmt.Errorf("it was frozen with %s", differ))
	}
	if s.Whole != (t.frozen.Pages == "") || s.Whole && t.frozen.Memory == "" {
		return cannotContinue(errors.New("device state and memory were not frozen together"))
	}
	t.state = s
	if t.frozen.Pages != "" {
		t.pages = make(chan pagesRead, 1)
		go func() {
			p, err := memory.ReadPages(t.frozen.Pages)
			t.pages <- pagesRead{p, err}
		}()
	}
	_, err = t.device.Write(s.stream)
	return err
}

// handFirst is hand for descriptors that come after the two sockets, which are not there yet.
func handFirst(l *launch, f *os.File) int { return l.hand(f) + 2 }

// damage gives a file's damage, or its absence, the code that says so.
func damage(err error) error {
	if errors.Is(err, memory.ErrDamaged) || errors.Is(err, os.ErrNotExist) {
		return cannotContinue(err)
	}
	return err
}

func (t *thaw) close() {
	t.lease.Release()
	for _, f := range []*os.File{t.device, t.inherited} {
		if f != nil {
			_ = f.Close()
		}
	}
	if t.pages != nil {
		go func() { _ = (<-t.pages).pages.Close() }()
	}
}

func (t *thaw) stage(name string) {
	if t.frozen.Stage != nil {
		t.frozen.Stage(name)
	}
}

// load puts memory and devices in place and lets the guest go on.
func (t *thaw) load(ctx context.Context, i *instance) error {
	c := i.control
	done := i.awaitMigration()
	first := []*qmp.Pending{c.BeginMigrationEvents(), c.BeginNoAnnouncements()}
	at := c.BeginHostAddress(0)
	for _, p := range first {
		if err := p.Wait(ctx, nil); err != nil {
			return err
		}
	}
	if t.frozen.Await != nil {
		if err := t.frozen.Await(ctx); err != nil {
			return err
		}
		if err := t.read(); err != nil {
			return err
		}
	}
	firmwareAt := c.BeginHostAddress(t.state.FirmwareAt)
	t.stage(hypervisor.StageMonitor)
	base, err := at.HostAddress(ctx)
	if err != nil {
		return err
	}
	if err := t.fill(i, base); err != nil {
		return err
	}
	if base, err = firmwareAt.HostAddress(ctx); err != nil {
		return err
	}
	if err := t.fillFirmware(i, base); err != nil {
		return err
	}
	t.stage(hypervisor.StageMemory)
	if err := c.BeginIncoming(t.launch.state).Wait(ctx, nil); err != nil {
		return err
	}
	if err := t.loaded(ctx, i, done); err != nil {
		return err
	}
	if t.m.NIC != nil {
		if err := c.BeginSetLink(netDevice, false).Wait(ctx, nil); err != nil {
			return err
		}
	}
	t.stage(hypervisor.StageDevices)
	if t.frozen.BeforeRun != nil {
		if err := t.frozen.BeforeRun(); err != nil {
			return err
		}
	}
	defer t.stage(hypervisor.StageRun)
	return c.Cont(ctx)
}

// loaded waits for QEMU's word. One that cannot load ends (before QEMU 9.1 there is no other way).
func (t *thaw) loaded(ctx context.Context, i *instance, done <-chan string) error {
	select {
	case status := <-done:
		if status == "completed" {
			return nil
		}
		return cannotContinue(fmt.Errorf("QEMU did not load the device state (%s): %s", status, i.log.Lines()))
	case <-i.control.Done():
	case <-ctx.Done():
		if err := context.Cause(ctx); !errors.Is(err, vmm.ErrDied) {
			return err
		}
	}
	return cannotContinue(fmt.Errorf("QEMU ended while it loaded the device state: %s", i.log.Lines()))
}

func (t *thaw) fillFirmware(i *instance, base uint64) error {
	r, err := memory.In(i.h.host, i.p, base, int64(len(t.state.Firmware)))
	if err != nil {
		return err
	}
	return r.Write(r.All(), t.state.Firmware)
}

// fill puts the frozen memory into QEMU's.
func (t *thaw) fill(i *instance, base uint64) error {
	r, err := memory.In(i.h.host, i.p, base, t.m.MemoryBytes)
	if err != nil {
		return err
	}
	if r.Image != (t.lease != nil) {
		return errors.New("QEMU has not taken its memory from the image")
	}
	if err := t.undoSetup(r); err != nil {
		return err
	}
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
		return errors.Join(cannotContinue(errors.New("the pages belong to another memory image")), p.Close())
	}
	return errors.Join(r.Write(p.Runs, p.Data), p.Close())
}

func (t *thaw) imageID() memory.ImageID {
	if t.lease == nil {
		return memory.ImageID{}
	}
	return t.lease.Image.ID
}

// undoSetup takes back what QEMU has written into the guest's memory while it set the machine up: nothing for a
// kernel that the firmware loads, all of the kernel if it is an ELF file.
func (t *thaw) undoSetup(r memory.Region) error {
	runs, err := r.Own()
	if err != nil || len(runs) == 0 {
		return err
	}
	if t.lease == nil {
		return r.Write(memory.Zeros(runs), nil)
	}
	return r.Restore(runs, t.frozen.Memory)
}

// SetLink plugs both ends of the guest's network cable in or out.
func (i *instance) SetLink(ctx context.Context, up bool) error {
	if i.m.NIC == nil {
		return nil
	}
	if err := i.do(ctx, func(c *qmp.Client) error { return c.BeginSetLink(netDevice, up).Wait(ctx, nil) }); err != nil {
		return fmt.Errorf("cannot set the network link of %s: %w", i.m.ID, err)
	}
	return nil
}
