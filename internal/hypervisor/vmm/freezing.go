package vmm

import (
	"errors"
	"os"

	"banger/internal/durable"
	"banger/internal/hypervisor"
	"banger/internal/hypervisor/memory"
)

// Freezing is what every VMM's freeze has in common: the files of the result, room for them, and the copy of the guest's memory.
type Freezing struct {
	hypervisor.Freeze
	// Region is the guest's memory in its VMM, Image what that was mapped from.
	Region memory.Region
	Image  memory.ImageID
	// Written is how many bytes of memory are in the files.
	Written int64

	buffer     memory.Buffer
	pages      memory.Pages
	memoryFile *os.File
	deviceFile *os.File
}

// Room beyond what is there when the guest still runs: pages that it writes before it stands, and device state.
const (
	roomPages  = 8 << 20
	roomDevice = 1 << 20
)

// Prepare makes the files and reserves room on disk and in memory, while the guest runs; Region is set by then.
func (f *Freezing) Prepare() error {
	var err error
	if f.deviceFile, err = createFrozen(f.Dir, hypervisor.FrozenDevice); err != nil {
		return err
	}
	name := hypervisor.FrozenPages
	if f.Whole {
		name = hypervisor.FrozenMemory
	}
	if f.memoryFile, err = createFrozen(f.Dir, name); err != nil {
		return err
	}
	if err := reserve(f.deviceFile, roomDevice); err != nil || f.Whole {
		return err
	}
	own, err := f.Region.Own()
	if err != nil {
		return err
	}
	n := memory.Bytes(own)
	n = min(n+n/8+roomPages, f.Region.Size())
	if err := reserve(f.memoryFile, n+n/64+memory.PageSize); err != nil {
		return err
	}
	f.buffer, err = memory.NewBuffer(n)
	return err
}

// Passed tells of a stage's end.
func (f *Freezing) Passed(stage string) {
	if f.Stage != nil {
		f.Stage(stage)
	}
}

// CopyMemory takes the guest's memory while it stands.
func (f *Freezing) CopyMemory() error {
	own, err := f.Region.Own()
	if err != nil {
		return err
	}
	if f.Whole {
		if f.Region.Image {
			own = f.Region.All()
		}
		_, f.Written, err = memory.WriteImage(f.memoryFile, f.Region, own)
		return err
	}
	n := memory.Bytes(own)
	if n > int64(len(f.buffer)) {
		// It has written much in the last moment; rather stand longer than fail.
		if err := f.buffer.Free(); err != nil {
			return err
		}
		if f.buffer, err = memory.NewBuffer(n); err != nil {
			return err
		}
	}
	f.pages = memory.Pages{Size: f.Region.Size(), Image: f.Image, Runs: own, Data: f.buffer[:n]}
	return f.Region.Read(own, f.pages.Data)
}

// Write puts all into the files, as EncodeState has it; the guest runs already, if it is to.
func (f *Freezing) Write(head any, stream []byte) error {
	b, err := EncodeState(head, stream)
	if err != nil {
		return err
	}
	if _, err := f.deviceFile.Write(b); err != nil {
		return err
	}
	if !f.Whole {
		f.pages.Prune()
		if _, err := f.pages.WriteTo(f.memoryFile); err != nil {
			return err
		}
		f.Written = int64(len(f.pages.Data))
	}
	for _, file := range []*os.File{f.deviceFile, f.memoryFile} {
		if err := trim(file); err != nil {
			return err
		}
		if f.Transient {
			continue
		}
		if err := file.Sync(); err != nil {
			return err
		}
	}
	if f.Transient {
		return nil
	}
	return durable.SyncDir(f.Dir)
}

// Close gives back what was taken; after a failure the files, too.
func (f *Freezing) Close(failed bool) error {
	var errs []error
	for _, file := range []*os.File{f.deviceFile, f.memoryFile} {
		if file == nil {
			continue
		}
		errs = append(errs, file.Close())
		if failed {
			errs = append(errs, os.Remove(file.Name()))
		}
	}
	return errors.Join(append(errs, f.buffer.Free())...)
}
