package sieve

import (
	"encoding/binary"
	"net/netip"
)

// Ethernet and IPv4 as far as they are looked at.
const (
	etherHeader = 14
	etherIPv4   = 0x0800
	etherARP    = 0x0806
	ipHeader    = 20
)

// Policy says what a guest may send.
type Policy struct {
	// Guest is the only address that it may send from.
	Guest netip.Addr
	// Host are the host's own addresses at this moment.
	Host map[netip.Addr]bool
}

// Allows looks at one Ethernet frame from the guest. A fragment has both addresses too, so none slips by.
func (p Policy) Allows(frame []byte) bool {
	if len(frame) < etherHeader {
		return false
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case etherARP:
		return true // passt answers it and sends none anywhere
	case etherIPv4:
	default:
		return false
	}
	ip := frame[etherHeader:]
	if len(ip) < ipHeader || ip[0]>>4 != 4 {
		return false
	}
	src, dst := netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	return src == p.Guest && !p.Host[dst] && !forbidden(dst)
}

// forbidden are the destinations that mean this host, or a service of the network that the host
// is in and that trusts it for that (cloud metadata).
func forbidden(dst netip.Addr) bool {
	b := dst.As4()
	return b[0] == 0 || // Linux takes 0.0.0.0 for itself
		dst.IsLoopback() || dst.IsLinkLocalUnicast() ||
		b[0] >= 224 // multicast, reserved, broadcast: passt carries none
}
