package network

import (
	"context"
	"errors"
	"maps"
	"slices"

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
	unlock, err := n.hold(ctx)
	if err != nil {
		return Link{}, err
	}
	defer unlock()
	tap, err := n.o.Host.OpenTap(ctx, host.Tap{Name: g.tap(), Bridge: n.o.Bridge, MTU: n.o.Host.UplinkMTU(), Owner: g.UID})
	if err != nil {
		return Link{}, err
	}
	n.anonymous[g.ID] = g.tap()
	return Link{Tap: tap, TapName: g.tap()}, nil
}

// deleteTaps takes away all of these but those that are kept and the anonymous ones, which are nobody's on the bridge and yet in use.
func (n *Network) deleteTaps(ctx context.Context, taps []string, kept map[string]bool) error {
	var errs []error
	for _, tap := range taps {
		if kept[tap] || slices.Contains(slices.Collect(maps.Values(n.anonymous)), tap) {
			continue
		}
		errs = append(errs, n.o.Host.DeleteLink(ctx, tap))
	}
	return errors.Join(errs...)
}
