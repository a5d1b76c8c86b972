package dmsnapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/host"
)

// live is a device that is in use: its stack, and the chain of its files.
type live struct {
	*stack
	device host.Mapped
	chain  chain
	// sealed: the top is a layer already, which only root can write. Nothing that it keeps for later writes is of use then.
	sealed bool
}

func (l *live) close() {
	l.stack.close()
	l.chain.close()
}

// origin is what the top lies on.
func (l *live) origin() ground {
	return ground{device: l.device.Table[0].Origin, sectors: l.device.Table[0].Sectors}
}

// open finds a device that is in use. One that was left suspended goes on first.
func (d *Driver) open(name string) (*live, error) {
	if err := d.resume(name); err != nil {
		return nil, err
	}
	m, cow, err := d.top(name)
	if err != nil {
		return nil, err
	}
	switch {
	case m.Broken != "":
		return nil, api.Errorf(api.CodeConflict, "disk %s is broken: %s", cow.Path, m.Broken)
	case m.ReadOnly:
		return nil, api.Errorf(api.CodeConflict, "disk %s is attached for reading only", cow.Path)
	}
	l := &live{device: m}
	if l.stack, err = d.stackOf(name); err != nil {
		return nil, err
	}
	l.chain, err = openChain(cow.Path, os.O_RDWR)
	if errors.Is(err, fs.ErrPermission) {
		l.sealed = true
		l.chain, err = openChain(cow.Path, os.O_RDONLY)
	}
	if err != nil {
		return nil, err
	}
	if !l.chain.top().is(cow.Device, cow.Inode) {
		l.close()
		return nil, api.Errorf(api.CodeConflict, "disk %s is another file by now", cow.Path)
	}
	if err := l.tidy(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// tidy is for a Flatten that was cut off, while the device is in use: the kernel gives away chunks below what that left.
func (l *live) tidy() error {
	top := l.chain.top()
	if top.header.Scratch == 0 || l.sealed {
		return nil
	}
	st, err := top.store()
	if err != nil {
		return err
	}
	if err := top.tidy(st); err != nil {
		return err
	}
	if err := top.extend(storeChunks(top.header.Reserved, top.size)); err != nil {
		return err
	}
	return l.widen(top, l.device.Table[0].COW)
}

// top is a device in use, and the file that it writes to.
func (d *Driver) top(name string) (host.Mapped, host.LoopFile, error) {
	m, err := d.Host.Mapped(name)
	if err != nil {
		return m, host.LoopFile{}, err
	}
	if len(m.Table) != 1 || m.Table[0].Kind != host.MapSnapshot {
		return m, host.LoopFile{}, api.Errorf(api.CodeNotFound, "device %s is not in use", name)
	}
	cow, err := d.Host.LoopFile(m.Table[0].COW)
	return m, cow, err
}

// replace gives the device another table while it stands still: prepare makes it then, since what the kernel reads of a store must not change
// while it does. On error the device goes on as it was.
func (l *live) replace(prepare func() (table []host.MapTarget, undo func() error, err error)) error {
	if err := l.Host.SuspendMapped(l.name); err != nil {
		return err
	}
	table, undo, err := prepare()
	if err == nil {
		if err = l.Host.LoadMapped(l.name, table, false); err != nil && undo != nil {
			err = errors.Join(err, undo())
		}
	}
	if err != nil {
		return errors.Join(err, l.Host.ClearMapped(l.name), l.Host.ResumeMapped(l.name))
	}
	return l.Host.ResumeMapped(l.name)
}

// Switch puts the old top into a device of its own below, by another loop device that is read-only, and the new one over that. Until the last step, which
// is the kernel's, the old table is in use.
func (d *Driver) Switch(ctx context.Context, name, newTop string) (err error) {
	unlock, err := d.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot go on in disk %s: %w", newTop, err)
		}
	}()
	l, err := d.open(name)
	if err != nil {
		return err
	}
	defer l.close()
	next, err := openLink(newTop, Format, os.O_RDWR)
	if err != nil {
		return err
	}
	defer next.file.Close()
	old := l.chain.top()
	if old.is(next.dev, next.inode) {
		return nil // it is there
	}
	// By the name that its header has: the old top's other name may be about to go.
	base, err := openLink(next.header.Base, next.header.BaseFormat, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer base.file.Close()
	if !old.is(base.dev, base.inode) {
		return api.Errorf(api.CodeConflict, "it does not lie on %s", old.file.Name())
	}
	loop, err := l.topLoop(ctx, next)
	if err != nil {
		return err
	}
	// All that can be done before is: a guest stands still from here to there.
	below, finish, err := l.seal(ctx, base)
	if err == nil {
		err = l.replace(func() ([]host.MapTarget, func() error, error) {
			g, err := below, finish()
			if err == nil {
				g, err = l.fit(g, next.size/512)
			}
			return snapshot(g, loop.Device), nil, err
		})
	}
	if err != nil {
		return errors.Join(err, l.prune())
	}
	// From here on it is done, and Resume can do the rest once more: without more room the disk would be full early.
	if err := errors.Join(l.widen(next, loop.Device), l.prune()); err != nil {
		d.Log.Error("a disk has little room", "disk", newTop, "error", err)
	}
	return nil
}

// seal prepares a device that shows the top's disk for reading, over what the top lies on. When finish is called, nothing may be written to
// the disk any more.
func (l *live) seal(ctx context.Context, top *link) (g ground, finish func() error, err error) {
	st, err := top.store()
	if err != nil {
		return g, nil, err
	}
	used := st.used()
	loop, err := l.openLoop(ctx, top, host.Loop{ReadOnly: true, Offset: storeAt, Size: int64(used) * chunkBytes})
	if err != nil {
		return g, nil, err
	}
	l.number++
	m, err := l.Host.CreateMapped(fmt.Sprint(l.name, ".", l.number))
	if err != nil {
		return g, nil, err
	}
	finish = func() error {
		if err := st.read(top.file, top.size); err != nil {
			return err
		}
		if st.used() != used {
			if err := l.Host.ResizeLoop(loop.Device, int64(st.used())*chunkBytes); err != nil {
				return err
			}
		}
		if err := l.Host.LoadMapped(m.Name, snapshot(l.origin(), loop.Device), true); err != nil {
			return err
		}
		return l.Host.ResumeMapped(m.Name)
	}
	return ground{device: m.Device, sectors: l.origin().sectors}, finish, nil
}

// GrowAttached makes the ground under the top longer.
func (d *Driver) GrowAttached(ctx context.Context, name string, sizeBytes int64) (err error) {
	unlock, err := d.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	l, err := d.open(name)
	if err != nil {
		return err
	}
	defer l.close()
	top := l.chain.top()
	if more, err := disk.CheckGrowth(top.file.Name(), top.size, sizeBytes); err != nil || !more && l.origin().sectors == sizeBytes/512 {
		return err
	}
	if err := checkSize(sizeBytes); err != nil {
		return err
	}
	loop := l.device.Table[0].COW
	top.size, top.header.Size = sizeBytes, sizeBytes
	err = top.extend(storeChunks(top.header.Reserved, sizeBytes))
	if err == nil {
		err = writeHeader(top.file, &top.header)
	}
	if err == nil {
		err = l.widen(top, loop)
	}
	if err == nil {
		err = l.replace(func() ([]host.MapTarget, func() error, error) {
			g, err := l.fit(l.origin(), sizeBytes/512)
			return snapshot(g, loop), nil, err
		})
	}
	if err != nil {
		return fmt.Errorf("cannot grow disk %s: %w", top.file.Name(), errors.Join(err, l.prune()))
	}
	return nil
}

// Resume takes the table into use that a daemon had given the device when it died: it holds the same, and more.
func (d *Driver) Resume(ctx context.Context, name string) error {
	unlock, err := d.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.resume(name); err != nil {
		return err
	}
	s, err := d.stackOf(name)
	if err != nil {
		return err
	}
	// What a Switch does behind its last step.
	if m, _, err := d.top(name); err == nil && !m.ReadOnly && m.Broken == "" {
		l, err := d.open(name)
		if err != nil {
			return err
		}
		err = l.widen(l.chain.top(), m.Table[0].COW)
		l.close()
		if err != nil {
			return err
		}
	}
	return s.prune()
}

func (d *Driver) resume(name string) error {
	m, err := d.Host.Mapped(name)
	if err != nil || !m.Suspended {
		return err
	}
	return d.Host.ResumeMapped(name)
}

// Top asks the kernel.
func (d *Driver) Top(_ context.Context, name string) (string, error) {
	_, cow, err := d.top(name)
	return cow.Path, err
}

// Usage asks the kernel, too.
func (d *Driver) Usage(_ context.Context, name string) (disk.Usage, error) {
	m, cow, err := d.top(name)
	if err != nil {
		return disk.Usage{}, err
	}
	u := disk.Usage{Broken: d.why(m, cow)}
	if info, err := os.Stat(cow.Path); err == nil {
		u.OwnBytes = blocksOf(info) * 512
	}
	return u, nil
}

// AwaitBroken waits for the kernel's word.
func (d *Driver) AwaitBroken(ctx context.Context, name string) (string, error) {
	if _, err := d.Host.AwaitBroken(ctx, name); err != nil {
		return "", err
	}
	m, cow, err := d.top(name)
	return d.why(m, cow), err
}
