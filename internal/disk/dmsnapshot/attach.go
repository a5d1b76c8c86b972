package dmsnapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/host"
)

// CanAttach asks the host.
func (d *Driver) CanAttach() error { return d.Host.CanMap() }

// Attach builds from the lowest file upwards: while the device itself is not there, whatever is below it is of no use.
func (d *Driver) Attach(ctx context.Context, name, path string, readOnly bool) (a disk.Attached, err error) {
	unlock, err := d.lock(ctx, name)
	if err != nil {
		return a, err
	}
	defer unlock()
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot attach disk %s: %w", path, err)
		}
	}()
	flag := os.O_RDWR
	if readOnly {
		flag = os.O_RDONLY
	}
	c, err := openChain(path, flag)
	if err != nil {
		return a, err
	}
	defer c.close()
	if a, ok := d.attached(name, c.top(), readOnly); ok {
		return a, nil
	}
	if err := d.detach(ctx, name); err != nil {
		return a, err
	}
	s := &stack{Driver: d, name: name}
	defer s.close()
	if a, err = s.build(ctx, c, readOnly); err != nil {
		s.close()
		err = errors.Join(err, d.detach(context.WithoutCancel(ctx), name))
	}
	return a, err
}

// attached takes what is there already, where it is what is wanted, and works.
func (d *Driver) attached(name string, top *link, readOnly bool) (disk.Attached, bool) {
	m, err := d.Host.Mapped(name)
	if err != nil || len(m.Table) != 1 || m.Broken != "" || m.ReadOnly != readOnly || m.Suspended || m.Waiting {
		return disk.Attached{}, false
	}
	cow, err := d.Host.LoopFile(m.Table[0].COW)
	if err != nil || !top.is(cow.Device, cow.Inode) || m.Table[0].Sectors != top.size/512 {
		return disk.Attached{}, false
	}
	s := &stack{Driver: d, name: name}
	devices, err := s.byDevice()
	if err != nil {
		return disk.Attached{}, false
	}
	a := attachedAs(m, loopNode(m.Table[0].COW))
	for m, ok := m, true; ok && len(m.Table) > 0; {
		below := m.Table[0].Origin
		if m, ok = devices[below]; !ok && below != (host.Device{}) {
			a.BaseLoops = append(a.BaseLoops, loopNode(below))
		} else if ok && m.Table[0].Kind == host.MapSnapshot {
			a.BaseLoops = append(a.BaseLoops, loopNode(m.Table[0].COW))
		}
	}
	slices.Reverse(a.BaseLoops)
	return a, true
}

func loopNode(d host.Device) string { return fmt.Sprint("/dev/loop", d.Minor) }

func attachedAs(m host.Mapped, cow string) disk.Attached {
	return disk.Attached{Device: m.Node, Major: m.Major, Minor: m.Minor, DMName: m.Name, COWLoop: cow}
}

// build makes all devices of a chain.
func (s *stack) build(ctx context.Context, c chain, readOnly bool) (a disk.Attached, err error) {
	var g ground
	var bases []string
	for _, l := range c[:len(c)-1] {
		var loop host.OpenedLoop
		if l.disk {
			g, loop, err = s.layer(ctx, l, g)
		} else if loop, err = s.openLoop(ctx, l, host.Loop{ReadOnly: true}); err == nil {
			g = ground{device: loop.Device, sectors: l.size / 512}
		}
		if err != nil {
			return a, err
		}
		bases = append(bases, loop.Node)
	}
	top := c.top()
	if g, err = s.fit(g, top.size/512); err != nil {
		return a, err
	}
	var loop host.OpenedLoop
	if readOnly {
		loop, err = s.oldLoop(ctx, top)
	} else {
		loop, err = s.topLoop(ctx, top)
	}
	if err != nil {
		return a, err
	}
	m, err := s.Host.CreateMapped(s.name)
	if err != nil {
		return a, err
	}
	if err := s.Host.LoadMapped(s.name, snapshot(g, loop.Device), readOnly); err != nil {
		return a, err
	}
	if !readOnly {
		if err := s.widen(top, loop.Device); err != nil {
			return a, err
		}
	}
	if err := s.Host.ResumeMapped(s.name); err != nil {
		return a, err
	}
	a = attachedAs(m, loop.Node)
	a.BaseLoops = bases
	return a, nil
}

// firstRoom is how many chunks a store has room for when the kernel makes its tables in memory, 8 bytes for each up to 2 MiB; there are more
// chunks in a disk as a rule, but few disks are ever written full.
const firstRoom = 16 << 10

// topLoop is for the disk that is written to: first mended, and with little room; see widen.
func (s *stack) topLoop(ctx context.Context, l *link) (host.OpenedLoop, error) {
	st, err := s.mend(l)
	if err != nil {
		return host.OpenedLoop{}, err
	}
	room := min(st.used()+firstRoom, storeChunks(l.header.Reserved, l.size))
	if err := l.extend(storeChunks(l.header.Reserved, l.size)); err != nil {
		return host.OpenedLoop{}, err
	}
	return s.openLoop(ctx, l, host.Loop{Offset: storeAt, Size: int64(room) * chunkBytes, Direct: true})
}

// widen gives a store room for every chunk of its disk, so that it is the host's disk that can be full, and never the store.
func (s *stack) widen(l *link, loop host.Device) error {
	return s.Host.ResizeLoop(loop, int64(storeChunks(l.header.Reserved, l.size))*chunkBytes)
}

// mend makes a disk usable again that broke for want of room, and tidies it.
func (s *stack) mend(l *link) (store, error) {
	st, err := l.store()
	if err != nil {
		return st, err
	}
	if st.broken {
		s.Log.Warn("a disk that the host had no room for is used again", "disk", l.file.Name())
		if _, err := l.file.WriteAt(storeHeader(), storeAt); err != nil {
			return st, err
		}
		st.broken = false
	}
	return st, l.tidy(st)
}

// tidy takes away what a Flatten left that was cut off.
func (l *link) tidy(st store) error {
	h := &l.header
	if h.Scratch == 0 {
		return nil
	}
	if next := st.next(); next > h.Scratch {
		h.Reserved = next // it had got so far that its chunks are in the tables
	} else if err := punch(l.file, h.Scratch); err != nil {
		return err
	}
	h.Scratch = 0
	return writeHeader(l.file, h)
}

// extend makes a file long enough for so many chunks in its store; it is never made shorter.
func (l *link) extend(chunks uint64) error {
	info, err := l.file.Stat()
	if err != nil || info.Size() >= fileBytes(chunks) {
		return err
	}
	return l.file.Truncate(fileBytes(chunks))
}

// punch gives back what a file takes from a chunk on.
func punch(f *os.File, chunk uint64) error {
	info, err := f.Stat()
	if err != nil || info.Size() <= fileBytes(chunk) {
		return err
	}
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, fileBytes(chunk), info.Size()-fileBytes(chunk))
}

// lock takes a name's lock, and ends the Flatten that may hold it.
func (d *Driver) lock(ctx context.Context, name string) (unlock func(), err error) {
	d.mu.Lock()
	if end := d.flattening[name]; end != nil {
		end(errDisturbed)
	}
	d.mu.Unlock()
	return d.locks.Lock(ctx, name)
}

// How long Detach waits for a device that is still open: a VMM that was killed closes it when its last write is done, udev
// looks at new ones.
const (
	detachTime = 10 * time.Second
	firstWait  = 2 * time.Millisecond
	lastWait   = 250 * time.Millisecond
)

// Detach goes by names alone.
func (d *Driver) Detach(ctx context.Context, name string) error {
	unlock, err := d.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	return d.detach(ctx, name)
}

func (d *Driver) detach(ctx context.Context, name string) error {
	s, err := d.stackOf(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, detachTime, api.Errorf(api.CodeBusy, "it is still in use"))
	defer cancel()
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		left, err := s.remove()
		if err == nil && !left {
			return nil
		}
		if err != nil && api.CodeOf(err) != api.CodeBusy {
			return fmt.Errorf("cannot detach disk: %w", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("cannot detach disk: %w", errors.Join(context.Cause(ctx), err))
		}
	}
}

// remove takes away what nobody has open, from the top downwards: a device lies on those with lower numbers.
func (s *stack) remove() (left bool, err error) {
	names, err := s.names()
	if err != nil {
		return false, err
	}
	slices.SortFunc(names, func(a, b string) int {
		if a == s.name || b == s.name {
			return strings.Compare(a, b) // the device itself is the shortest
		}
		return s.numberOf(b) - s.numberOf(a)
	})
	for _, name := range names {
		if m, err := s.Host.Mapped(name); err == nil && m.Suspended && len(m.Table) > 0 {
			// What waits for it holds it open.
			if err := s.Host.ResumeMapped(name); err != nil {
				return true, err
			}
		}
		if err := s.Host.RemoveMapped(name); err != nil {
			return true, err
		}
	}
	return false, nil
}
