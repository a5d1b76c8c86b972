package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ruleset is everything that the packet filter must know about our guests.
type ruleset struct {
	table   string
	bridge  string
	subnet  netip.Prefix
	dns     netip.AddrPort
	guests  []Guest
	closed  bool // we turned forwarding on: forward for nobody but our guests
	gateway netip.Addr
}

// removeRules takes both tables away, whether they are there or not.
func removeRules(table string) string {
	var b strings.Builder
	for _, family := range []string{"inet", "bridge"} {
		fmt.Fprintf(&b, "table %s %s\ndelete table %s %s\n", family, table, family, table)
	}
	return b.String()
}

// String is the text for nft. It replaces both tables as a whole, in one transaction.
//
// The pins are in the bridge family's prerouting, which comes before the bridge learns. Frames
// to the bridge's own group addresses (01:80:c2:00:00:0X) skip that hook, so that
// input has them too. By name of the tap, not by device, so that they are there before it is.
func (r ruleset) String() string {
	guests := slices.Clone(r.guests)
	slices.SortFunc(guests, func(a, b Guest) int { return strings.Compare(a.tap(), b.tap()) })
	var taps, macs, addresses, arps []string
	for _, g := range guests {
		taps = append(taps, fmt.Sprintf("%q", g.tap()))
		macs = append(macs, fmt.Sprintf("%q . %s", g.tap(), g.mac()))
		addresses = append(addresses, fmt.Sprintf("%q . %s", g.tap(), g.IP))
		arps = append(arps, fmt.Sprintf("%q . %s . %s", g.tap(), g.mac(), g.IP))
	}
	list := func(s []string) string {
		if len(s) == 0 {
			return "" // nft takes no empty list
		}
		return "\n\t\telements = { " + strings.Join(s, ", ") + " }"
	}
	forward, nat := "", ""
	if r.closed {
		forward = "\n\t\tiifname != $BRIDGE oifname != $BRIDGE drop"
	}
	if r.dns != netip.AddrPortFrom(r.gateway, 53) {
		for _, proto := range []string{"udp", "tcp"} {
			nat += fmt.Sprintf("\n\t\tiifname $BRIDGE ip daddr $GATEWAY %s dport 53 dnat ip to %s", proto, r.dns)
		}
	}
	text := strings.NewReplacer("$FORWARD", forward, "$NAT", nat).Replace(removeRules(r.table) + rulesText)
	return strings.NewReplacer(
		"$TABLE", r.table, "$BRIDGE", fmt.Sprintf("%q", r.bridge), "$SUBNET", r.subnet.String(), "$GATEWAY", r.gateway.String(),
		"$DNSADDR", r.dns.Addr().String(), "$DNSPORT", fmt.Sprint(r.dns.Port()),
		"$TAPS", list(taps), "$MACS", list(macs), "$ADDRESSES", list(addresses), "$ARPS", list(arps),
	).Replace(text)
}

const rulesText = `table inet $TABLE {
	set taps {
		type ifname$TAPS
	}

	chain input {
		type filter hook input priority filter - 10; policy accept;
		iifname @taps drop
		iifname != { "lo", $BRIDGE } ip daddr $GATEWAY drop
		iifname $BRIDGE jump from_guest
	}

	chain from_guest {
		ct state established,related accept
		ip daddr $DNSADDR udp dport $DNSPORT accept
		ip daddr $DNSADDR tcp dport $DNSPORT accept
		ip daddr $GATEWAY icmp type echo-request accept
		reject with icmpx admin-prohibited
	}

	chain forward {
		type filter hook forward priority filter - 10; policy accept;$FORWARD
		iifname @taps drop
		iifname $BRIDGE oifname $BRIDGE drop
		iifname $BRIDGE jump guest_out
		oifname $BRIDGE jump guest_in
	}

	chain guest_out {
		meta nfproto ipv6 drop
		ip saddr != $SUBNET drop
		ct state invalid drop
		tcp flags syn / syn,rst tcp option maxseg size set rt mtu
		ct state established,related accept
		ct status dnat reject with icmpx admin-prohibited
		ip daddr { 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 } reject with icmpx admin-prohibited
	}

	chain guest_in {
		meta nfproto ipv6 drop
		tcp flags syn / syn,rst tcp option maxseg size set rt mtu
		ct state established,related accept
		drop
	}

	chain prerouting {
		type nat hook prerouting priority dstnat - 10; policy accept;$NAT
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr $SUBNET oifname != $BRIDGE masquerade
	}
}
table bridge $TABLE {
	set taps {
		type ifname$TAPS
	}

	set macs {
		type ifname . ether_addr$MACS
	}

	set addresses {
		type ifname . ipv4_addr$ADDRESSES
	}

	set arps {
		type ifname . ether_addr . ipv4_addr$ARPS
	}

	chain prerouting {
		type filter hook prerouting priority dstnat; policy accept;
		iifname @taps jump guest
	}

	chain input {
		type filter hook input priority filter; policy accept;
		iifname @taps jump guest
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname @taps oifname @taps drop
	}

	chain guest {
		iifname . ether saddr != @macs drop
		ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 iifname . arp saddr ether . arp saddr ip @arps accept
		ether type ip iifname . ip saddr @addresses accept
		drop
	}
}
`
