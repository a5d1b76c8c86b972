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
