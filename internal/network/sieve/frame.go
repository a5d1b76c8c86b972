package sieve

import (
	"encoding/binary"
	"net/netip"
)

// Ethernet, IPv4, UDP and TCP as far as they are looked at.
const (
	etherHeader = 14
	etherIPv4   = 0x0800
	etherARP    = 0x0806

	ipHeader   = 20
	ipFragment = 0x3fff // more fragments, or an offset
	ipSum      = 10
	ipSource   = 12
	ipDest     = 16

	protoTCP = 6
	protoUDP = 17
	dnsPort  = 53
)

// forbidden are the destinations that mean this host, or a service of the network that the host
// is in and that trusts it for that (cloud metadata).
func forbidden(dst netip.Addr) bool {
	b := dst.As4()
	return b[0] == 0 || // Linux takes 0.0.0.0 for itself
		dst.IsLoopback() || dst.IsLinkLocalUnicast() ||
		b[0] >= 224 // multicast, reserved, broadcast: passt carries none
}

// packet is an IPv4 packet, as long as its frame says.
type packet []byte

// ipv4 is the packet in a frame; false where there is none, or not a whole header.
func ipv4(frame []byte) (packet, bool) {
	if len(frame) < etherHeader+ipHeader || binary.BigEndian.Uint16(frame[12:]) != etherIPv4 {
		return nil, false
	}
	p := packet(frame[etherHeader:])
	return p, p[0]>>4 == 4
}

func (p packet) source() netip.Addr { return netip.AddrFrom4([4]byte(p[ipSource:])) }
func (p packet) dest() netip.Addr   { return netip.AddrFrom4([4]byte(p[ipDest:])) }

// ports finds the ports of an unfragmented UDP or TCP packet, and where its checksum lies.
func (p packet) ports() (proto byte, source, dest uint16, sum int, ok bool) {
	header := int(p[0]&15) * 4
	proto = p[9]
	switch proto {
	case protoUDP:
		sum = header + 6
	case protoTCP:
		sum = header + 16
	default:
		return 0, 0, 0, 0, false
	}
	if header < ipHeader || len(p) < sum+2 || binary.BigEndian.Uint16(p[6:])&ipFragment != 0 {
		return 0, 0, 0, 0, false
	}
	return proto, binary.BigEndian.Uint16(p[header:]), binary.BigEndian.Uint16(p[header+2:]), sum, true
}

// readdress puts an address at field (ipSource or ipDest) and mends both checksums, by RFC 1624.
func (p packet) readdress(field, sum int, to netip.Addr) {
	old, b := [4]byte(p[field:]), to.As4()
	mend := func(at int) {
		c := uint32(^binary.BigEndian.Uint16(p[at:]))
		for i := 0; i < 4; i += 2 {
			c += uint32(^binary.BigEndian.Uint16(old[i:])) + uint32(binary.BigEndian.Uint16(b[i:]))
		}
		for c > 0xffff {
			c = c>>16 + c&0xffff
		}
		binary.BigEndian.PutUint16(p[at:], ^uint16(c))
	}
	mend(ipSum)
	if p[9] != protoUDP || binary.BigEndian.Uint16(p[sum:]) != 0 { // 0: a UDP packet without a checksum
		mend(sum)
		if p[9] == protoUDP && binary.BigEndian.Uint16(p[sum:]) == 0 {
			binary.BigEndian.PutUint16(p[sum:], 0xffff)
		}
	}
	copy(p[field:], b[:])
}
