package rootd

import (
	"context"
	"os"

	"banger/internal/host/local"
	"banger/internal/host/verb"
)

// Whose a device is stands on it, and host/local touches those of the uid that is served only; names are checked there, too.

func (s *Server) openLoop(ctx context.Context, q *question, a verb.LoopArgs) (any, error) {
	f, _, err := handed(q, !a.Loop.ReadOnly)
	if err != nil {
		return nil, err
	}
	if l := a.Loop; l.Offset < 0 || l.Size < 0 || l.Offset%512 != 0 || l.Size%512 != 0 {
		return nil, refuse("a loop device of %d bytes from %d", l.Size, l.Offset)
	}
	loop, err := s.host.OpenLoop(ctx, f, a.Loop)
	if err != nil {
		return nil, err
	}
	q.out = []*os.File{loop.File}
	return verb.LoopReply{Device: loop.Device, Node: loop.Node}, nil
}

func (s *Server) resizeLoop(_ context.Context, _ *question, a verb.LoopSizeArgs) (any, error) {
	if a.Size < 0 || a.Size%512 != 0 {
		return nil, refuse("a loop device of %d bytes", a.Size)
	}
	return nil, s.host.ResizeLoop(a.Device, a.Size)
}

func (s *Server) loopFile(_ context.Context, _ *question, a verb.DeviceArgs) (any, error) {
	return s.host.LoopFile(a.Device)
}

func (s *Server) createMapped(_ context.Context, _ *question, a verb.MapArgs) (any, error) {
	return s.host.CreateMapped(a.Name)
}

// mostTargets is more than any table of ours has.
const mostTargets = 16

func (s *Server) loadMapped(_ context.Context, _ *question, a verb.MapTableArgs) (any, error) {
	if len(a.Table) == 0 || len(a.Table) > mostTargets {
		return nil, refuse("a table of %d targets", len(a.Table))
	}
	return nil, s.host.LoadMapped(a.Name, a.Table, a.ReadOnly)
}

// mapped is a verb that needs a device's name only.
func (s *Server) mapped(do func(h *local.Host, name string) error) handler {
	return typed(func(_ context.Context, _ *question, a verb.MapArgs) (any, error) { return nil, do(s.host, a.Name) })
}

func (s *Server) showMapped(_ context.Context, _ *question, a verb.MapArgs) (any, error) {
	return s.host.Mapped(a.Name)
}

func (s *Server) mappedNames(_ context.Context, _ *question, a verb.MapArgs) (any, error) {
	return s.host.MappedNames(a.Name)
}
