package daemon

import (
	"context"
	"errors"

	"banger/api"
	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/host/helper"
	"banger/internal/host/local"
)

// machine is the host as this daemon may use it.
type machine struct {
	host host.Host
	// apart: VMMs have uids of their own.
	apart bool
	// alone says why there is no bangerd-root for a daemon that is not root; nil where there is, or it is root.
	alone error
}

// rights is what a daemon of this user may do with it.
func (m machine) rights(uid int) api.Rights {
	switch {
	case uid == 0:
		return api.RightsRoot
	case m.apart:
		return api.RightsHelped
	default:
		return api.RightsUser
	}
}

// refused says why the bangerd-root that is there does not serve us; empty where there is none.
func (m machine) refused() string {
	if m.alone == nil || m.alone.Error() == helper.ErrNone.Error() {
		return ""
	}
	return m.alone.Error()
}

// openMachine takes up bangerd-root where it serves us, and with it what root has settled there.
func openMachine(ctx context.Context, cfg *config.Config, uid int) (machine, error) {
	if uid == 0 {
		return machine{host: local.New(), apart: true}, nil
	}
	h, err := helper.New(ctx, cfg.Paths.RootSocket, cfg.Paths.State)
	if errors.Is(err, helper.ErrNone) {
		return machine{host: local.New(), alone: err}, nil
	}
	if err != nil {
		return machine{}, err
	}
	if cfg.Explicit("bridge") && cfg.Bridge != h.Bridge() {
		return machine{}, api.Errorf(api.CodeConflict, "the configured bridge is %s, and bangerd-root makes %s only", cfg.Bridge, h.Bridge()).
			WithHint("sudo banger system install")
	}
	cfg.Bridge = h.Bridge()
	cfg.UIDBase, cfg.UIDCount = h.UIDs()
	if !cfg.Explicit("net") && h.CanBridge() == nil {
		cfg.Net = string(api.NetBridge)
	}
	return machine{host: h, apart: true}, nil
}
