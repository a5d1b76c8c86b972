package serve

import (
	"context"
	"time"

	"banger/api/agentapi"
)

// System is what the agent does to the whole guest. The real one is internal/agent;
// hypervisor/fake has one that only pretends.
type System interface {
	Health() agentapi.Health
	Personalise(ctx context.Context, p agentapi.Personalise) (agentapi.Health, error)
	// Shutdown returns when everything is synced; the guest then ends by itself.
	Shutdown(ctx context.Context, s agentapi.Shutdown) error
	SetClock(t time.Time) error
	Grow(ctx context.Context) error
}
