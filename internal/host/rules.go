package host

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// DefaultBridge is the bridge whose tables have the plain name.
const DefaultBridge = "banger0"

// Rules is all that the packet filter is to do about the guests of one bridge. It says what is wanted and not how, so that
// whoever runs as root need not take rules from others.
type Rules struct {
	Bridge string
	// Remove takes both tables away, whether they are there or not; nothing else is looked at then.
	Remove bool
	Subnet netip.Prefix
	// DNS is where the daemon answers names. Guests ask the gateway on port 53.
	DNS    netip.AddrPort
	Guests []Pin
	// Closed: banger turned forwarding on, so forward for nobody but its guests.
	Closed bool
}

// Pin is what a guest may send: from its own MAC and address only.
type Pin struct {
	Tap string
	MAC net.HardwareAddr
	IP  netip.Addr
}

// Gateway is the host's own address on the bridge of a subnet: its first.
func Gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// Table is the name of banger's tables, one in the family inet and one in bridge. A daemon with another bridge has its own.
func (r Rules) Table() string {
	if r.Bridge == DefaultBridge {
		return "banger"
	}
	return "banger-" + r.Bridge
}

// remove takes both tables away, whether they are there or not.
func (r Rules) remove() string {
	var b strings.Builder
	for _, family := range []string{"inet", "bridge"} {
		fmt.Fprintf(&b, "table %s %s\ndelete table %s %s\n", family, r.Table(), family, r.Table())
	}
	return b.String()
}

// Text is the same for nft. It replaces both tables as a whole, in one transaction.
//
// The pins are in the bridge family's prerouting, which comes before the bridge learns. Frames
// to the bridge's own group addresses (01:80:c2:00:00:0X) skip that hook, so that
// input has them too. By name of the tap, not by device, so that they are there before it is.
func (r Rules) Text() string {
	if r.Remove {
		return r.remove()
	}
	guests := slices.Clone(r.Guests)
	slices.SortFunc(guests, func(a, b Pin) int { return strings.Compare(a.Tap, b.Tap) })
	var taps, macs, addresses, arps []string
	for _, g := range guests {
		taps = append(taps, fmt.Sprintf("%q", g.Tap))
		macs = append(macs, fmt.Sprintf("%q . %s", g.Tap, g.MAC))
		addresses = append(addresses, fmt.Sprintf("%q . %s", g.Tap, g.IP))
		arps = append(arps, fmt.Sprintf("%q . %s . %s", g.Tap, g.MAC, g.IP))
	}
	list := func(s []string) string {
		if len(s) == 0 {
			return "" // nft takes no empty list
		}
		return "\n\t\telements = { " + strings.Join(s, ", ") + " }"
	}
	gateway := Gateway(r.Subnet)
	forward, nat := "", ""
	if r.Closed {
		forward = "\n\t\tiifname != $BRIDGE oifname != $BRIDGE drop"
	}
	if r.DNS != netip.AddrPortFrom(gateway, 53) {
		for _, proto := range []string{"udp", "tcp"} {
			nat += fmt.Sprintf("\n\t\tiifname $BRIDGE ip daddr $GATEWAY %s dport 53 dnat ip to %s", proto, r.DNS)
		}
	}
	text := strings.NewReplacer("$FORWARD", forward, "$NAT", nat).Replace(r.remove() + rulesText)
	return strings.NewReplacer(
		"$TABLE", r.Table(), "$BRIDGE", fmt.Sprintf("%q", r.Bridge), "$SUBNET", r.Subnet.String(), "$GATEWAY", gateway.String(),
		"$DNSADDR", r.DNS.Addr().String(), "$DNSPORT", fmt.Sprint(r.DNS.Port()),
		"$TAPS", list(taps), "$MACS", list(macs), "$ADDRESSES", list(addresses), "$ARPS", list(arps),
	).Replace(text)
}
