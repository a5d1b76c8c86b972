package host

// rulesText is filled in by Rules.Text.
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
