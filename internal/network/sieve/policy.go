package sieve

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"banger/internal/network/resolvconf"
)

// Policy says what a guest may send, and leads its questions to the host's resolver.
type Policy struct {
	// Guest is the only address that it may send from.
	Guest netip.Addr
	// Resolver is the address at which it asks for names, UDP and TCP port 53.
	Resolver netip.Addr
	// Look finds out what is true on the host at this moment; asked again after a second.
	Look func() Host

	host   Host
	looked time.Time
	// asked remembers the guest's ports whose answers must seem to come from Resolver: TCP, then
	// UDP. Written by one direction and read by the other.
	asked [2 * 65536]atomic.Bool
}

// Host is what is true on the host.
type Host struct {
	Addresses map[netip.Addr]bool
	// Resolver is the host's own: on its loopback, too. Invalid if it has none with IPv4.
	Resolver netip.Addr
}

// fresh is how long the host is believed to be as it was.
const fresh = time.Second

// Out decides on a frame that the guest sends, which it may change. A fragment has both addresses,
// so none slips by.
func (p *Policy) Out(frame []byte) bool {
	if len(frame) >= etherHeader && binary.BigEndian.Uint16(frame[12:]) == etherARP {
		return true // passt answers it and sends none anywhere
	}
	ip, ok := ipv4(frame)
	if !ok || ip.source() != p.Guest {
		return false
	}
	if now := time.Now(); now.Sub(p.looked) > fresh {
		p.host, p.looked = p.Look(), now
	}
	dst := ip.dest()
	proto, from, to, sum, ok := ip.ports()
	if ok && to == dnsPort {
		p.asked[slot(proto, from)].Store(dst == p.Resolver)
	}
	if dst == p.Resolver {
		if !ok || to != dnsPort || !p.host.Resolver.Is4() {
			return false
		}
		ip.readdress(ipDest, sum, p.host.Resolver)
		return true
	}
	return !p.host.Addresses[dst] && !forbidden(dst)
}

// In lets every frame to the guest through, and makes the resolver's answers come from where it was asked.
func (p *Policy) In(frame []byte) bool {
	ip, ok := ipv4(frame)
	if !ok {
		return true
	}
	proto, from, to, sum, ok := ip.ports()
	if ok && from == dnsPort && p.asked[slot(proto, to)].Load() {
		ip.readdress(ipSource, sum, p.Resolver)
	}
	return true
}

func slot(proto byte, port uint16) int {
	if proto == protoUDP {
		return 65536 + int(port)
	}
	return int(port)
}

// look finds out about this host.
func look(resolvConf string) Host {
	h := Host{Addresses: map[netip.Addr]bool{}}
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			h.Addresses[p.Addr()] = true
		}
	}
	for _, r := range resolvconf.Read(resolvConf) {
		if r.Is4() {
			h.Resolver = r
			break
		}
	}
	return h
}
