package network

import (
	"net"
	"net/netip"

	"banger/api"
	"banger/api/agentapi"
	"banger/internal/network/dns"
)

// GuestConfig is what the agent sets the guest's device to; nil for NetNone.
func (n *Network) GuestConfig(g Guest) *agentapi.Network {
	switch g.Kind {
	case api.NetBridge:
		subnet, ok := n.subnetOf(g.IP)
		if !ok {
			return nil
		}
		gw := gateway(subnet).String()
		return &agentapi.Network{
			MAC: g.MAC, Address: netip.PrefixFrom(g.IP, subnet.Bits()).String(), Gateway: gw, MTU: n.o.Host.UplinkMTU(),
			Resolvers: []string{gw}, SearchList: []string{"vm"},
		}
	case api.NetUser:
		return &agentapi.Network{
			MAC: g.MAC, Address: netip.PrefixFrom(userIP, userNet.Bits()).String(), Gateway: userGateway.String(), MTU: userMTU,
			Resolvers: n.userResolvers(), SearchList: []string{},
		}
	case api.NetNone:
	}
	return nil
}

// userResolvers are the host's own where the guest can reach them, then passt's
// stand-in for the first of them (which knows UDP only).
func (n *Network) userResolvers() []string {
	own := map[netip.Addr]bool{}
	if all, err := net.InterfaceAddrs(); err == nil {
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				own[p.Addr()] = true
			}
		}
	}
	var out []string
	for _, r := range dns.HostResolvers(n.o.ResolvConf) {
		a := r.Addr()
		if a.Is4() && !own[a] && !a.IsLoopback() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() && !userNet.Contains(a) && len(out) < 2 {
			out = append(out, a.String())
		}
	}
	return append(out, userResolver.String())
}
