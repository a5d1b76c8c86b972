package agent

import "context"

// Release lets PID 1 go on to the image's init without an identity.
func (s *system) Release(context.Context) error {
	if s.kind == initSystemd {
		releaseInit()
	}
	return nil
}

// Quiesce makes the guest ready to be frozen.
func (s *system) Quiesce(context.Context) error { return nil }
