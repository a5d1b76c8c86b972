package network

import (
	"context"

	"banger/api"
	"banger/internal/host"
)

// AttachAnonymous prepares a link for a guest that shall reach nobody: the build of a template, whose clones
// need the device. A tap stays outside the bridge for good, where nothing is let in or out. The inverse is Detach.
func (n *Network) AttachAnonymous(ctx context.Context, g Guest) (Link, error) {
	switch g.Kind {
	case api.NetNone:
		return Link{}, nil
	case api.NetUser:
		return n.attachUser(ctx, g, func(host.Process) error { return nil })
	case api.NetBridge:
	}
	tap, err := n.o.Host.OpenTap(ctx, host.Tap{Name: g.tap(), Bridge: n.o.Bridge, MTU: n.o.Host.UplinkMTU(), Owner: g.UID})
	if err != nil {
		return Link{}, err
	}
	return Link{Tap: tap, TapName: g.tap()}, nil
}
