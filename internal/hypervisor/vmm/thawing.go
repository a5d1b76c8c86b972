package vmm

import (
	"context"
	"errors"
	"fmt"
	"os"

	"banger/internal/hypervisor"
	"banger/internal/hypervisor/memory"
)

// StateHead is the part of each hypervisor's head of device state that all have.
type StateHead struct {
	Stamp hypervisor.Stamp `json:"stamp"`
	// Whole: the memory is an image, else a file of pages.
	Whole bool `json:"whole"`
}

// Thawing is what every VMM's thaw has in common: the memory image, the device state, and the guest's own pages.
type Thawing struct {
	hypervisor.Frozen
	Machine *hypervisor.Machine
	// Now is the stamp that the state must have.
	Now hypervisor.Stamp
	// Lease is nil where the memory began as zeros.
	Lease *memory.Lease

	// pages delivers the own pages, read and checked while the VMM starts; nil for none.
	pages chan pagesRead
}

type pagesRead struct {
	pages *memory.Pages
	err   error
}

// Borrow takes the memory image, if there is one; sealed as for memory.Vault.
func (t *Thawing) Borrow(ctx context.Context, v *memory.Vault, sealed bool) (err error) {
	if t.Memory == "" {
		return nil
	}
	if t.Lease, err = v.Lend(ctx, t.Memory, sealed); err != nil {
		return damage(err)
	}
	if t.Lease.Image.Size != t.Machine.MemoryBytes {
		return CannotContinue(fmt.Errorf("the memory image has %d MiB, the machine %d", t.Lease.Image.Size>>20, t.Machine.MemoryBytes>>20))
	}
	return nil
}

// Read takes the device state, and begins to read the pages. common is the StateHead in head.
func (t *Thawing) Read(head any, common *StateHead) (stream []byte, err error) {
	if stream, err = ReadState(t.Device, head); err != nil {
		return nil, err
	}
	if differ := Differing(common.Stamp, t.Now); differ != "" {
		return nil, CannotContinue(fmt.Errorf("it was frozen with %s", differ))
	}
	if common.Whole != (t.Pages == "") || common.Whole && t.Memory == "" {
		return nil, CannotContinue(errors.New("device state and memory were not frozen together"))
	}
	if t.Pages != "" {
		t.pages = make(chan pagesRead, 1)
		go func() {
			p, err := memory.ReadPages(t.Pages)
			t.pages <- pagesRead{p, err}
		}()
	}
	return stream, nil
}

// Fill puts the guest's own pages, if there are any, over the image in its VMM's memory.
func (t *Thawing) Fill(find func() (memory.Region, error)) error {
	if t.pages == nil {
		return nil
	}
	read := <-t.pages
	t.pages = nil
	if read.err != nil {
		return damage(read.err)
	}
	p := read.pages
	if p.Size != t.Machine.MemoryBytes || p.Image != t.ImageID() {
		return errors.Join(CannotContinue(errors.New("the pages belong to another memory image")), p.Close())
	}
	r, err := find()
	if err != nil {
		return errors.Join(err, p.Close())
	}
	return errors.Join(r.Write(p.Runs, p.Data), p.Close())
}

// ImageID is the memory image's; zero where the memory began as zeros.
func (t *Thawing) ImageID() memory.ImageID {
	if t.Lease == nil {
		return memory.ImageID{}
	}
	return t.Lease.Image.ID
}

// Passed tells of a stage's end.
func (t *Thawing) Passed(stage string) {
	if t.Stage != nil {
		t.Stage(stage)
	}
}

// Close gives back what was taken and not passed on.
func (t *Thawing) Close() {
	t.Lease.Release()
	if t.pages != nil {
		go func() { _ = (<-t.pages).pages.Close() }()
	}
}

// damage gives a file's damage, or its absence, the code that says so.
func damage(err error) error {
	if errors.Is(err, memory.ErrDamaged) || errors.Is(err, os.ErrNotExist) {
		return CannotContinue(err)
	}
	return err
}
