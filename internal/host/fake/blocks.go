package fake

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"banger/api"
	"banger/internal/host"
)

// blocks implements host.Blocks. Its devices hold nothing: who reads or writes them must be on a real machine.
type blocks struct {
	// NoMap is what CanMap answers. Before is asked before each change, with its line in the transcript; the change does not happen
	// when it returns an error, as when the machine or the daemon had ended.
	NoMap  error
	Before func(line string) error

	script *transcript

	mu     sync.Mutex // protects the following
	loops  map[host.Device]host.LoopFile
	mapped map[string]*mappedDevice
	minor  uint32
}

// mappedDevice is a device with its two tables.
type mappedDevice struct {
	host.Mapped
	waiting         []host.MapTarget
	waitingReadOnly bool
}

func newBlocks(script *transcript) *blocks {
	return &blocks{script: script, loops: map[host.Device]host.LoopFile{}, mapped: map[string]*mappedDevice{}}
}

// Blocks is the machine's block devices, for what a test wants of them.
func (b *blocks) Blocks() *blocks { return b }

// change is called with mu held.
func (b *blocks) change(format string, args ...any) error {
	line := fmt.Sprintf(format, args...)
	if b.Before != nil {
		if err := b.Before(line); err != nil {
			return err
		}
	}
	b.script.add(line)
	return nil
}

func (b *blocks) CanMap() error { return b.NoMap }

func (b *blocks) OpenLoop(_ context.Context, file *os.File, l host.Loop) (host.OpenedLoop, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	info, err := file.Stat()
	if err != nil {
		return host.OpenedLoop{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return host.OpenedLoop{}, fmt.Errorf("cannot tell which file %s is", file.Name())
	}
	b.minor++
	d := host.Device{Major: 7, Minor: b.minor}
	if err := b.change("loop %s of %s from %d, read-only %t", d, info.Name(), l.Offset, l.ReadOnly); err != nil {
		return host.OpenedLoop{}, err
	}
	hold, err := os.Open(os.DevNull)
	if err != nil {
		return host.OpenedLoop{}, err
	}
	b.loops[d] = host.LoopFile{Path: file.Name(), Device: st.Dev, Inode: st.Ino, Direct: l.Direct}
	return host.OpenedLoop{Device: d, Node: fmt.Sprint("/dev/loop", d.Minor), File: hold}, nil
}

func (b *blocks) ResizeLoop(d host.Device, size int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.change("resize loop %s to %d", d, size)
}

func (b *blocks) LoopFile(d host.Device) (host.LoopFile, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.loops[d]
	if !ok {
		return f, api.Errorf(api.CodeNotFound, "there is no loop device %s", d)
	}
	return f, nil
}

func (b *blocks) CreateMapped(name string) (host.Mapped, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mapped[name] != nil {
		return host.Mapped{}, api.Errorf(api.CodeConflict, "there is a device %s", name)
	}
	if err := b.change("create %s", name); err != nil {
		return host.Mapped{}, err
	}
	b.minor++
	m := host.Mapped{Name: name, Device: host.Device{Major: 253, Minor: b.minor}, Node: fmt.Sprint("/dev/dm-", b.minor)}
	b.mapped[name] = &mappedDevice{Mapped: m}
	return m, nil
}

// with changes a device that is there.
func (b *blocks) with(name, line string, change func(*mappedDevice)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.mapped[name]
	if m == nil {
		return api.Errorf(api.CodeNotFound, "there is no device %s", name)
	}
	if err := b.change("%s", line); err != nil {
		return err
	}
	change(m)
	return nil
}

func (b *blocks) LoadMapped(name string, table []host.MapTarget, readOnly bool) error {
	return b.with(name, fmt.Sprintf("load %s: %s", name, tableText(table)), func(m *mappedDevice) {
		m.waiting, m.waitingReadOnly, m.Waiting = table, readOnly, true
	})
}

func tableText(table []host.MapTarget) string {
	var parts []string
	for _, t := range table {
		part := fmt.Sprint(t.Kind, " ", t.Sectors)
		for _, d := range []host.Device{t.Origin, t.COW} {
			if d != (host.Device{}) {
				part += " " + d.String()
			}
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

func (b *blocks) ClearMapped(name string) error {
	return b.with(name, "clear "+name, func(m *mappedDevice) { m.waiting, m.Waiting = nil, false })
}

func (b *blocks) SuspendMapped(name string) error {
	return b.with(name, "suspend "+name, func(m *mappedDevice) { m.Suspended = true })
}

func (b *blocks) ResumeMapped(name string) error {
	return b.with(name, "resume "+name, func(m *mappedDevice) {
		if m.Suspended = false; m.Waiting {
			m.Table, m.ReadOnly, m.waiting, m.Waiting = m.waiting, m.waitingReadOnly, nil, false
		}
	})
}

func (b *blocks) RemoveMapped(name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.mapped[name]
	if m == nil {
		return nil
	}
	for _, other := range b.mapped {
		if slices.ContainsFunc(slices.Concat(other.Table, other.waiting), func(t host.MapTarget) bool { return t.Origin == m.Device }) {
			return api.Errorf(api.CodeBusy, "device %s is in use by %s", name, other.Name)
		}
	}
	if err := b.change("remove %s", name); err != nil {
		return err
	}
	delete(b.mapped, name)
	return nil
}

func (b *blocks) Mapped(name string) (host.Mapped, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.mapped[name]
	if m == nil {
		return host.Mapped{}, api.Errorf(api.CodeNotFound, "there is no device %s", name)
	}
	return m.Mapped, nil
}

func (b *blocks) MappedNames(prefix string) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for name := range b.mapped {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// AwaitBroken waits for nothing: no device breaks here.
func (b *blocks) AwaitBroken(ctx context.Context, name string) (host.Mapped, error) {
	m, err := b.Mapped(name)
	if err != nil {
		return m, err
	}
	<-ctx.Done()
	return m, context.Cause(ctx)
}
