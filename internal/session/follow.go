package session

import (
	"context"

	"banger/api"
)

// Follow keeps the records right when something happens to a VM that nobody may be looking at. It goes on until Close.
func (s *Service) Follow(ctx context.Context) error {
	after, err := s.Store.LastCursor(ctx)
	if err != nil {
		return err
	}
	s.background.Go(func() {
		if err := s.Events(s.life, after, true, s.happened); err != nil && s.life.Err() == nil {
			s.Log.Error("cannot follow what happens to sessions", "error", err)
		}
	})
	return nil
}

// happened looks at a VM's sessions where they may be others than before.
func (s *Service) happened(e api.Event) error {
	switch e.Kind {
	case "vm.ready", "vm.stopped", "vm.restored", "main.ended":
	case "session.started": // here, or with the main command: that one is not recorded yet
		if e.Data["session"] != api.MainSession {
			return nil
		}
	default:
		return nil
	}
	s.background.Go(func() {
		if err := s.look(s.life, e); err != nil && s.life.Err() == nil && api.CodeOf(err) != api.CodeNotFound {
			s.Log.Warn("cannot look at sessions", "vm", e.VMID, "error", err)
		}
	})
	return nil
}

func (s *Service) look(ctx context.Context, e api.Event) error {
	if e.Kind != "session.started" {
		some, err := s.hasSome(ctx, e.VMID)
		if err != nil || !some {
			return err
		}
	}
	vm, err := s.VM(ctx, e.VMID)
	if err != nil {
		return err
	}
	_, err = s.refresh(ctx, vm)
	return err
}

// hasSome reports whether a VM may have sessions: its own, or those of the one that it is a fork of.
func (s *Service) hasSome(ctx context.Context, id string) (bool, error) {
	for range 2 {
		have, err := s.Store.Sessions(ctx, id)
		if err != nil || len(have) > 0 {
			return err == nil, err
		}
		vm, err := s.VM(ctx, id)
		if err != nil {
			return false, err
		}
		if id = vm.Runtime.ForkOf; id == "" {
			return false, nil
		}
	}
	return false, nil
}
