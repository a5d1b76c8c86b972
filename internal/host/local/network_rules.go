package local

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/host"
)

// ApplyRules feeds nft, which is atomic: everything or nothing. Where only guests have come or gone since it did so a moment
// ago, only the sets change, which costs a fiftieth: nft replaces the chains too, and the kernel waits until nobody is in the old ones.
func (n networks) ApplyRules(ctx context.Context, r host.Rules) error {
	if n.applied == nil { // nothing is remembered
		return applyText(ctx, r.Text())
	}
	n.applied.mu.Lock()
	defer n.applied.mu.Unlock()
	last, known := n.applied.last[r.Bridge]
	delete(n.applied.last, r.Bridge)
	if known && time.Since(last.at) < setsAlone && sameButGuests(last.rules, r) && changeGuests(last.rules, r) == nil {
		n.applied.last[r.Bridge] = appliedRules{r, last.at}
		return nil
	}
	if err := applyText(ctx, r.Text()); err != nil || r.Remove {
		return err
	}
	n.applied.last[r.Bridge] = appliedRules{r, time.Now()}
	return nil
}

// setsAlone is how long after all rules were written changes touch the sets alone: should somebody else have meddled with the chains,
// they are mended then.
const setsAlone = 5 * time.Second

// applied remembers what ApplyRules did, by bridge.
type applied struct {
	mu   sync.Mutex // protects the following, and is held while rules change
	last map[string]appliedRules
}

// appliedRules are rules as they are, and when all of them were last written.
type appliedRules struct {
	rules host.Rules
	at    time.Time
}

// sameButGuests tells whether two wanted states differ in their guests at most.
func sameButGuests(a, b host.Rules) bool {
	a.Guests, b.Guests = nil, nil
	return reflect.DeepEqual(a, b)
}

func applyText(ctx context.Context, ruleset string) error {
	if err := (processes{}).Run(ctx, host.Command{Path: "nft", Args: []string{"-f", "-"}, Stdin: strings.NewReader(ruleset)}); err != nil {
		return fmt.Errorf("cannot apply packet filter rules: %w", err)
	}
	return nil
}

// Rules is `nft --terse list ruleset`.
func (networks) Rules(ctx context.Context) (string, error) {
	var out bytes.Buffer
	if err := (processes{}).Run(ctx, host.Command{Path: "nft", Args: []string{"--terse", "list", "ruleset"}, Stdout: &out}); err != nil {
		return "", fmt.Errorf("cannot list packet filter rules: %w", err)
	}
	return out.String(), nil
}

// Routes reads every routing table, since VPNs have their own, but for the one of local addresses.
func (networks) Routes() ([]host.Route, error) {
	all, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("cannot list routes: %w", err)
	}
	var out []host.Route
	for _, r := range all {
		if r.Dst == nil || r.Table == unix.RT_TABLE_LOCAL {
			continue
		}
		ip, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		bits, _ := r.Dst.Mask.Size()
		if !ok || bits == 0 {
			continue
		}
		route := host.Route{Destination: netip.PrefixFrom(ip, bits)}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			route.Link = l.Attrs().Name
		}
		out = append(out, route)
	}
	return out, nil
}

// UplinkMTU asks the main table for the default route with the lowest metric.
func (networks) UplinkMTU() int {
	const ethernet = 1500
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return ethernet
	}
	best := -1
	for i, r := range routes {
		isDefault := r.Dst == nil || r.Dst.IP.IsUnspecified()
		if isDefault && (best < 0 || r.Priority < routes[best].Priority) {
			best = i
		}
	}
	if best < 0 {
		return ethernet
	}
	index := routes[best].LinkIndex
	if hops := routes[best].MultiPath; index == 0 && len(hops) > 0 {
		index = hops[0].LinkIndex
	}
	link, err := netlink.LinkByIndex(index)
	if err != nil || link.Attrs().MTU < 576 {
		return ethernet
	}
	// A bridge's MTU may be larger than what guests' virtio devices take.
	return min(link.Attrs().MTU, 9000)
}

// ListenUDP opens a socket in the network namespace of the calling thread.
func (networks) ListenUDP(ctx context.Context, addr netip.AddrPort) (net.PacketConn, error) {
	var lc net.ListenConfig
	return lc.ListenPacket(ctx, "udp4", addr.String())
}

// ListenTCP is the same for TCP.
func (networks) ListenTCP(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp4", addr.String())
}

// RouteNames talks to systemd-resolved by its own program.
func (networks) RouteNames(ctx context.Context, link, server, domain string) error {
	for _, args := range [][]string{
		{"dns", link, server},
		{"domain", link, "~" + domain},
		{"default-route", link, "false"},
		{"llmnr", link, "no"},
		{"mdns", link, "no"},
	} {
		if err := (processes{}).Run(ctx, host.Command{Path: "resolvectl", Args: args}); err != nil {
			return err
		}
	}
	return nil
}
