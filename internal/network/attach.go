package network

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"time"

	"banger/api"
	"banger/internal/host"
)

// Attach prepares a guest's link. When it returns, the pins of MAC and address are in place, and
// the VMM may be started; a tap is in no bridge before Join. record is called with the
// process that carries a user network before that is used. On error nothing of this
// guest's is left. The inverse is Detach.
func (n *Network) Attach(ctx context.Context, g Guest, record func(host.Process) error) (Link, error) {
	switch g.Kind {
	case api.NetNone:
		return Link{}, nil
	case api.NetUser:
		return n.attachUser(ctx, g, record)
	case api.NetBridge:
		link, err := n.attachBridge(ctx, g)
		if err != nil {
			return Link{}, err
		}
		if err := link.Pinned(ctx); err != nil {
			return Link{}, errors.Join(err, link.Close(), n.Detach(context.WithoutCancel(ctx), g))
		}
		return Link{Tap: link.Tap, TapName: link.TapName}, nil
	}
	return Link{}, n.Check(g.Kind)
}

// Begin is Attach for a guest that does not run at once: it returns when the VMM may be started, with a guest that stands
// still or whose link is down, and Link.Pinned when the guest may be let go. Whatever becomes of it, Detach follows one day.
func (n *Network) Begin(ctx context.Context, g Guest, record func(host.Process) error) (Link, error) {
	if g.Kind == api.NetBridge {
		return n.attachBridge(ctx, g)
	}
	return n.Attach(ctx, g, record)
}

// attachBridge makes the tap, and holds the lock until the pins are in place, or until it is known that they are not.
func (n *Network) attachBridge(ctx context.Context, g Guest) (_ Link, err error) {
	unlock, err := n.hold(ctx)
	if err != nil {
		return Link{}, err
	}
	if err = n.admit(g); err == nil {
		n.guests[g.ID] = g
		var tap *os.File
		tap, err = n.o.Host.OpenTap(ctx, host.Tap{Name: g.tap(), Bridge: n.o.Bridge, MTU: n.o.Host.UplinkMTU(), Owner: g.UID})
		if err == nil {
			pins := &pinning{done: make(chan struct{})}
			go func() {
				defer unlock()
				pins.err = n.apply(context.WithoutCancel(ctx)) // half of it helps nobody
				close(pins.done)
			}()
			return Link{Tap: tap, TapName: g.tap(), pins: pins}, nil
		}
		err = errors.Join(err, n.drop(context.WithoutCancel(ctx), g))
	}
	unlock()
	return Link{}, err
}

// Join lets a guest that has confirmed its MAC and address onto the bridge. It is idempotent;
// the other kinds of network have nothing to join.
func (n *Network) Join(ctx context.Context, g Guest) error {
	if g.Kind != api.NetBridge {
		return nil
	}
	unlock, err := n.hold(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return n.join(ctx, g)
}

// Rename gives a guest that is on the bridge another name, and changes nothing else on the host. One that is not there is left
// as it is.
func (n *Network) Rename(ctx context.Context, g Guest) error {
	unlock, err := n.hold(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	known, ok := n.guests[g.ID]
	if !ok {
		return nil
	}
	known.Name = g.Name
	n.guests[g.ID] = known
	if n.dns != nil {
		n.dns.SetZone(n.zone(n.subnet()))
	}
	return nil
}

func (n *Network) join(ctx context.Context, g Guest) error {
	return n.o.Host.JoinBridge(ctx, host.Port{Link: g.tap(), Bridge: n.o.Bridge, MAC: g.mac()})
}

// Detach takes away everything that Attach made, by derived names alone, whether or not it is
// there; of a guest that this Network has never heard of too. With the last guest on the bridge, or Options.Linger later,
// the bridge, the rules and the DNS go, and ip_forward is as it was before.
func (n *Network) Detach(ctx context.Context, g Guest) error {
	switch g.Kind {
	case api.NetUser:
		return n.detachUser(ctx, g)
	case api.NetBridge:
		unlock, err := n.hold(ctx)
		if err != nil {
			return err
		}
		defer unlock()
		return n.drop(ctx, g)
	case api.NetNone:
	}
	return nil
}

// drop is called with the lock held. The tap goes first, while its pins still hold.
func (n *Network) drop(ctx context.Context, g Guest) error {
	err := n.o.Host.DeleteLink(ctx, g.tap())
	delete(n.guests, g.ID)
	delete(n.anonymous, g.ID)
	if len(n.guests) == 0 && n.o.Linger > 0 && !n.checked.IsZero() {
		return errors.Join(err, n.linger(ctx))
	}
	return errors.Join(err, n.apply(ctx))
}

// Set makes the host as it must be for these guests, given all that run on the bridge: it takes up
// those whose tap is there (left by an earlier daemon), renames, and removes taps
// of ours that nobody wants. Guests attached by this daemon stay until Detach, so that a
// Set made from a list that has just become old does no harm.
func (n *Network) Set(ctx context.Context, wanted []Guest) error {
	if n.o.Host.CanBridge() != nil {
		return nil // then nothing of ours can be there either
	}
	unlock, err := n.hold(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	n.checked = time.Time{}
	taps, err := n.o.Host.Taps(n.o.Bridge)
	if err != nil {
		return err
	}
	before := maps.Clone(n.guests)
	var errs []error
	for _, g := range wanted {
		if _, known := n.guests[g.ID]; g.Kind != api.NetBridge || !known && !slices.Contains(taps, g.tap()) {
			continue
		}
		if err := n.admit(g); err != nil {
			errs = append(errs, err)
			continue
		}
		n.guests[g.ID] = g
	}
	kept := map[string]bool{}
	for _, g := range n.guests {
		kept[g.tap()] = true
	}
	errs = append(errs, n.deleteTaps(ctx, taps, kept), n.apply(ctx))
	for id, g := range n.guests {
		if _, known := before[id]; !known && g.Joined {
			errs = append(errs, n.join(ctx, g))
		}
	}
	return errors.Join(errs...)
}

// Close lets go of the host without changing it, but for the DNS, which is this process, and for what only lingers: the
// daemon is going away.
func (n *Network) Close() error {
	unlock, err := n.hold(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	if n.idle != nil {
		return n.teardown(context.Background())
	}
	return n.stopDNS()
}

// tapPattern is what may stand in a rule.
var tapPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,14}$`)

// admit checks a guest against the others.
func (n *Network) admit(g Guest) error {
	subnet, ok := n.subnetOf(g.IP)
	switch {
	case !tapPattern.MatchString(g.tap()):
		return api.Errorf(api.CodeInvalid, "%q is no name for a tap", g.tap())
	case len(g.mac()) != 6:
		return api.Errorf(api.CodeInvalid, "%q is no hardware address", g.MAC)
	case !ok:
		return api.Errorf(api.CodeConflict, "the address %s of VM %s is not in the guests' subnet %s", g.IP, g.Name, n.subnets()[0]).
			WithHint("banger config show; set subnet as it was when the VM was created")
	}
	empty := true
	for _, other := range n.guests {
		if other.ID == g.ID {
			continue
		}
		empty = false
		if s, _ := n.subnetOf(other.IP); s != subnet {
			return api.Errorf(api.CodeConflict, "VM %s has the address %s, but the bridge is %s as long as VM %s runs", g.Name, g.IP, s, other.Name).
				WithHint("banger vm stop %s", other.Name)
		}
		if other.IP == g.IP || other.MAC == g.MAC || other.tap() == g.tap() {
			return api.Errorf(api.CodeConflict, "VM %s has the address, MAC or tap of VM %s", g.Name, other.Name)
		}
	}
	if empty {
		return n.clash(subnet)
	}
	return nil
}

// subnet is what the bridge has now; there is at least one guest.
func (n *Network) subnet() netip.Prefix {
	for _, g := range n.guests {
		s, _ := n.subnetOf(g.IP)
		return s
	}
	return netip.Prefix{}
}
