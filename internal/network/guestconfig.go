package network

import (
	"net/netip"

	"banger/api"
	"banger/api/agentapi"
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
			Resolvers: []string{userResolver.String()}, SearchList: []string{},
		}
	case api.NetNone:
	}
	return nil
}
