package serve

import (
	"context"
	"os"

	"banger/api/agentapi"
)

// System is what the agent does to the whole guest. The real one is internal/agent;
// hypervisor/fake has one that only pretends.
type System interface {
	Health() agentapi.Health
	// Changed returns a channel that is closed when the readiness in Health changes next.
	Changed() <-chan struct{}
	// Release lets the boot go on without an identity; code conflict when it went on already.
	Release(ctx context.Context, r agentapi.Release) error
	// Quiesce makes a released guest ready to be frozen.
	Quiesce(ctx context.Context) error
	Personalise(ctx context.Context, p agentapi.Personalise) (agentapi.Health, error)
	// Settled returns when no service is down only because it is told who the guest is.
	Settled(ctx context.Context)
	// Shutdown returns when everything is synced; the guest then ends by itself.
	Shutdown(ctx context.Context, s agentapi.Shutdown) error
	SetClock(c agentapi.Clock) error
	Grow(ctx context.Context) error
	// RootDisk opens the root disk alone, without what is mounted in it, and keeps it from changing until done is called.
	RootDisk(ctx context.Context) (dir *os.File, done func() error, err error)
}
