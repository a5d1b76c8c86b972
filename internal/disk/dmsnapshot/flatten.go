package dmsnapshot

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
)

// errDisturbed ends a Flatten because something else is to be done to the device.
var errDisturbed = api.Errorf(api.CodeCancelled, "something else is to be done to the disk")

// Flatten copies the layers' chunks into the top's file while the guest runs: far behind what the kernel may give away meanwhile. Then the
// device stands still, the chunks that the top does not have itself are entered into its tables, and the kernel reads these again, over the base. From
// the write of one area on they count; until then, and if nothing else happened after it, the disk holds the same by its old chain.
func (d *Driver) Flatten(ctx context.Context, name, base string) (err error) {
	unlock, err := d.locks.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	d.mu.Lock()
	d.flattening[name] = end
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.flattening, name)
		d.mu.Unlock()
	}()
	l, err := d.open(name)
	if err != nil {
		return err
	}
	defer l.close()
	f := &flattening{live: l, top: l.chain.top(), base: base}
	if err = f.run(ctx); err == nil {
		return nil
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		err = api.Errorf(api.CodeExhausted, "%w", err).WithHint("banger prune")
	case errors.Is(err, context.Canceled):
		err = context.Cause(ctx)
	}
	return fmt.Errorf("cannot shorten the chain of disk %s: %w", f.top.file.Name(), err)
}

// flattening is one that is under way.
type flattening struct {
	*live
	top  *link
	base string
	// between are the layers to be copied, the highest first; ground is what lies below them.
	between []*link
	below   *link // nil for nothing
	ground  ground
	// held is what the top holds itself.
	held store
	// The copies are in the top's store from far on, up to end.
	far, end uint64
	places   []place
}

func (f *flattening) run(ctx context.Context) error {
	if err := f.plan(); err != nil || len(f.between) == 0 {
		return err
	}
	h := &f.top.header
	err := f.reserve()
	if err == nil {
		err = f.copy(ctx)
	}
	if err == nil {
		err = f.replace(func() ([]host.MapTarget, func() error, error) {
			undo, err := f.enter()
			return snapshot(f.ground, f.device.Table[0].COW), undo, err
		})
	}
	if err != nil {
		// Where they are in the tables all the same they must stay; mend finds out.
		if st, rerr := f.top.store(); rerr == nil && st.next() <= f.far && punch(f.top.file, f.far) == nil {
			h.Scratch = 0
			err = errors.Join(err, writeHeader(f.top.file, h))
		}
		return errors.Join(err, f.prune())
	}
	h.Base, h.BaseFormat, h.Reserved, h.Scratch = "", "", f.end, 0
	if f.below != nil {
		if h.Base, err = filepath.Abs(f.base); err != nil {
			return err
		}
		if h.BaseFormat = formatRaw; f.below.disk {
			h.BaseFormat = Format
		}
	}
	return errors.Join(writeHeader(f.top.file, h), f.prune())
}

// plan finds the base in the chain, and the device that shows it.
func (f *flattening) plan() error {
	var st unix.Stat_t
	if f.base != "" {
		if err := unix.Stat(f.base, &st); err != nil {
			return api.Errorf(api.CodeNotFound, "cannot find the base %s: %w", f.base, err)
		}
	}
	for n := len(f.chain) - 2; n >= 0 && f.below == nil; n-- {
		if l := f.chain[n]; f.base != "" && l.is(st.Dev, st.Ino) {
			f.below = l
		} else {
			f.between = append(f.between, l)
		}
	}
	if len(f.between) == 0 {
		return nil
	}
	if f.base != "" && f.below == nil {
		return api.Errorf(api.CodeNotFound, "the disk does not lie on %s", f.base)
	}
	g, err := f.find()
	if err != nil {
		return err
	}
	sectors := f.top.size / 512
	if g, err = f.fit(g, sectors); err == nil && g == f.origin() {
		// The kernel would take over the tables that it has in memory, instead of reading them.
		var m host.Mapped
		m, err = f.stack.below([]host.MapTarget{{Kind: host.MapLinear, Sectors: sectors, Origin: g.device}})
		g.device = m.Device
	}
	f.ground = g
	return err
}

// find looks for the device that shows what is below the layers.
func (f *flattening) find() (ground, error) {
	if f.below == nil {
		return ground{}, nil
	}
	devices, err := f.byDevice()
	if err != nil {
		return ground{}, err
	}
	for at := f.device; len(at.Table) > 0; {
		device := at.Table[0].Origin
		cow, ok := device, false
		if at, ok = devices[device]; ok {
			if len(at.Table) == 0 || at.Table[0].Kind != host.MapSnapshot {
				continue
			}
			cow = at.Table[0].COW
		}
		file, err := f.Host.LoopFile(cow)
		if err != nil {
			return ground{}, err
		}
		if f.below.is(file.Device, file.Inode) {
			return ground{device: device, sectors: f.below.size / 512}, nil
		}
	}
	return ground{}, api.Errorf(api.CodeNotFound, "the device does not lie on %s", f.base)
}

// reserve finds out what is to be copied, and makes room for it.
func (f *flattening) reserve() (err error) {
	h := &f.top.header
	if f.held, err = f.top.store(); err != nil {
		return err
	}
	if f.places, err = merged(f.between, f.held.exceptions); err != nil {
		return err
	}
	f.far = storeChunks(h.Reserved, f.top.size)
	f.end = settle(f.places, f.far)
	if storeChunks(f.end, f.top.size) > maxChunk {
		return api.Errorf(api.CodeUnsupported, "its file has been made longer too often")
	}
	if err := f.top.extend(storeChunks(f.end, f.top.size)); err != nil {
		return err
	}
	h.Scratch = f.far
	return writeHeader(f.top.file, h)
}

// copy copies, and gives the kernel room to see it.
func (f *flattening) copy(ctx context.Context) error {
	if err := copyPlaces(ctx, f.top.file, f.places); err != nil {
		return err
	}
	if err := errors.Join(f.top.file.Sync(), context.Cause(ctx)); err != nil {
		return err
	}
	return f.Host.ResizeLoop(f.device.Table[0].COW, int64(storeChunks(f.end, f.top.size))*chunkBytes)
}

// enter puts the copies into the tables, other than of what the guest has written since. The device stands still.
func (f *flattening) enter() (undo func() error, err error) {
	if err := f.held.read(f.top.file, f.top.size); err != nil {
		return nil, err
	}
	own := make(map[uint64]bool, len(f.held.exceptions))
	for _, e := range f.held.exceptions {
		own[e.old] = true
	}
	var added []exception
	for _, p := range f.places {
		if !own[p.old] {
			added = append(added, exception{old: p.old, here: p.to})
		}
	}
	n := uint64(len(f.held.exceptions))
	first := make([]byte, chunkBytes)
	if err := readArea(f.top.file, n/perArea, first); err != nil {
		return nil, err
	}
	areas := appended(first, n, added)
	write := func(number uint64, area []byte) error {
		_, err := f.top.file.WriteAt(area, fileBytes(areaAt(number)))
		return err
	}
	for i := len(areas) - 1; i > 0; i-- {
		if err := write(n/perArea+uint64(i), areas[i]); err != nil {
			return nil, err
		}
	}
	undo = func() error { return errors.Join(write(n/perArea, first), f.top.file.Sync()) }
	if err := f.top.file.Sync(); err != nil {
		return nil, err
	}
	if err := errors.Join(write(n/perArea, areas[0]), f.top.file.Sync()); err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}
