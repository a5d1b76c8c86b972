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
		defer t.Passed(hypervisor.StageSpawn)
		return record(held)
	}, t.load)
	if err != nil {
		return nil, h.wrap(&m, "thaw", err)
	}
	i.lease, t.Lease = t.Lease, nil
	return i, nil
}

// thaw is one under way.
type thaw struct {
	vmm.Thawing
	launch launch
	head   stateHead
	// device holds the device state, inherited is the descriptor that QEMU reads it from.
	device, inherited *os.File
}

// thawing checks all that can be checked before a process is there.
func (h *Hypervisor) thawing(ctx context.Context, m *hypervisor.Machine, f hypervisor.Frozen, facts *facts) (_ *thaw, err error) {
	t := &thaw{Thawing: vmm.Thawing{Frozen: f, Machine: m, Now: stampFor(m, facts)}}
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
func (t *thaw) borrow(ctx context.Context, v *memory.Vault) error {
	// VMMs of other uids, and only they, could otherwise write into the image.
	sealed := t.Machine.UID != 0 && t.Machine.UID != os.Geteuid()
	if err := t.Borrow(ctx, v, sealed); err != nil {
		return err
	}
	id := t.Lease.Image.ID
	t.launch.memory += hex.EncodeToString(id[:])
	t.launch.image = t.Memory
	if sealed {
		t.launch.image = fmt.Sprintf("/proc/self/fd/%d", handFirst(&t.launch, t.Lease.Copy))
	}
	return nil
}

// read takes the device state for QEMU.
func (t *thaw) read() error {
	stream, err := t.Read(&t.head, &t.head.StateHead)
	if err != nil {
		return err
	}
	_, err = t.device.Write(stream)
	return err
}

// handFirst is hand for descriptors that come after the two sockets, which are not there yet.
func handFirst(l *launch, f *os.File) int { return l.hand(f) + 2 }

func (t *thaw) close() {
	t.Close()
	for _, f := range []*os.File{t.device, t.inherited} {
		if f != nil {
			_ = f.Close()
		}
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
	if t.Await != nil {
		if err := t.Await(ctx); err != nil {
			return err
		}
		if err := t.read(); err != nil {
			return err
		}
	}
	firmwareAt := c.BeginHostAddress(t.head.FirmwareAt)
	t.Passed(hypervisor.StageMonitor)
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
	t.Passed(hypervisor.StageMemory)
	if err := c.BeginIncoming(t.launch.state).Wait(ctx, nil); err != nil {
		return err
	}
	if err := t.loaded(ctx, i, done); err != nil {
		return err
	}
	if t.Machine.NIC != nil {
		if err := c.BeginSetLink(netDevice, false).Wait(ctx, nil); err != nil {
			return err
		}
	}
	t.Passed(hypervisor.StageDevices)
	if t.BeforeRun != nil {
		if err := t.BeforeRun(); err != nil {
			return err
		}
	}
	defer t.Passed(hypervisor.StageRun)
	i.guest.Thawed(t.First)
	i.greet()
	return c.Cont(ctx)
}

// loaded waits for QEMU's word. One that cannot load ends (before QEMU 9.1 there is no other way).
func (t *thaw) loaded(ctx context.Context, i *instance, done <-chan string) error {
	select {
	case status := <-done:
		if status == "completed" {
			return nil
		}
		return vmm.CannotContinue(fmt.Errorf("QEMU did not load the device state (%s): %s", status, i.log.Lines()))
	case <-i.control.Done():
	case <-ctx.Done():
		if err := context.Cause(ctx); !errors.Is(err, vmm.ErrDied) {
			return err
		}
	}
	return vmm.CannotContinue(fmt.Errorf("QEMU ended while it loaded the device state: %s", i.log.Lines()))
}

func (t *thaw) fillFirmware(i *instance, base uint64) error {
	r, err := memory.In(i.h.host, i.p, base, int64(len(t.head.Firmware)))
	if err != nil {
		return err
	}
	return r.Write(r.All(), t.head.Firmware)
}

// fill puts the frozen memory into QEMU's.
func (t *thaw) fill(i *instance, base uint64) error {
	r, err := memory.In(i.h.host, i.p, base, t.Machine.MemoryBytes)
	if err != nil {
		return err
	}
	if r.Image != (t.Lease != nil) {
		return errors.New("QEMU has not taken its memory from the image")
	}
	if err := t.undoSetup(r); err != nil {
		return err
	}
	return t.Fill(func() (memory.Region, error) { return r, nil })
}

// undoSetup takes back what QEMU has written into the guest's memory while it set the machine up: nothing for a
// kernel that the firmware loads, all of the kernel if it is an ELF file.
func (t *thaw) undoSetup(r memory.Region) error {
	runs, err := r.Own()
	if err != nil || len(runs) == 0 {
		return err
	}
	if t.Lease == nil {
		return r.Write(memory.Zeros(runs), nil)
	}
	return r.Restore(runs, t.Memory)
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
