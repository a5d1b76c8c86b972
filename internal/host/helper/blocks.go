package helper

import (
	"context"
	"os"
	"time"

	"banger/internal/host"
	"banger/internal/host/verb"
)

// CanMap is what the helper said when we began.
func (h *Host) CanMap() error {
	if h.hello.NoMap != nil {
		return h.hello.NoMap
	}
	return nil
}

// OpenLoop sends the file, and gets a descriptor that keeps the device.
func (h *Host) OpenLoop(ctx context.Context, file *os.File, l host.Loop) (host.OpenedLoop, error) {
	var r verb.LoopReply
	out := make([]*os.File, 1)
	err := h.ask(ctx, verb.OpenLoop, verb.LoopArgs{Loop: l}, []*os.File{file}, &r, out)
	return host.OpenedLoop{Device: r.Device, Node: r.Node, File: out[0]}, err
}

// ResizeLoop asks for it.
func (h *Host) ResizeLoop(d host.Device, size int64) error {
	return h.short(verb.ResizeLoop, verb.LoopSizeArgs{Device: d, Size: size}, nil)
}

// LoopFile asks for it.
func (h *Host) LoopFile(d host.Device) (f host.LoopFile, err error) {
	err = h.short(verb.LoopFile, verb.DeviceArgs{Device: d}, &f)
	return f, err
}

// CreateMapped asks for it.
func (h *Host) CreateMapped(name string) (m host.Mapped, err error) {
	err = h.short(verb.CreateMapped, verb.MapArgs{Name: name}, &m)
	return m, err
}

// LoadMapped sends the table as numbers; its text is made there.
func (h *Host) LoadMapped(name string, table []host.MapTarget, readOnly bool) error {
	return h.short(verb.LoadMapped, verb.MapTableArgs{Name: name, Table: table, ReadOnly: readOnly}, nil)
}

// ClearMapped asks for it.
func (h *Host) ClearMapped(name string) error {
	return h.short(verb.ClearMapped, verb.MapArgs{Name: name}, nil)
}

// SuspendMapped asks for it.
func (h *Host) SuspendMapped(name string) error {
	return h.short(verb.SuspendMapped, verb.MapArgs{Name: name}, nil)
}

// ResumeMapped asks for it.
func (h *Host) ResumeMapped(name string) error {
	return h.short(verb.ResumeMapped, verb.MapArgs{Name: name}, nil)
}

// RemoveMapped asks for it.
func (h *Host) RemoveMapped(name string) error {
	return h.short(verb.RemoveMapped, verb.MapArgs{Name: name}, nil)
}

// Mapped asks for it.
func (h *Host) Mapped(name string) (m host.Mapped, err error) {
	err = h.short(verb.Mapped, verb.MapArgs{Name: name}, &m)
	return m, err
}

// MappedNames asks for it.
func (h *Host) MappedNames(prefix string) (names []string, err error) {
	err = h.short(verb.MappedNames, verb.MapArgs{Name: prefix}, &names)
	return names, err
}

// lookAgain is how often AwaitBroken looks: device-mapper tells its events to root only, and a question that waits for one would
// take one of the helper's few turns.
const lookAgain = 3 * time.Second

// AwaitBroken asks again and again.
func (h *Host) AwaitBroken(ctx context.Context, name string) (host.Mapped, error) {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		m, err := h.Mapped(name)
		if err != nil || m.Broken != "" {
			return m, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return m, context.Cause(ctx)
		}
	}
}

// short is for calls that have no context.
func (h *Host) short(v verb.Verb, args, result any) error {
	ctx, cancel := bounded()
	defer cancel()
	return h.ask(ctx, v, args, nil, result, nil)
}
