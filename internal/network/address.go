package network

import (
	"crypto/sha256"
	"net"
	"net/netip"
	"slices"
	"strings"

	"banger/api"
	"banger/internal/host"
	"banger/internal/network/resolvconf"
)

// TapName is the name of a VM's tap: at most 15 bytes are allowed, 40 bits of the id fit.
func TapName(id string) string { return "bgr-" + id[:min(8, len(id))] }

// MACFor is a VM's hardware address: locally administered, and always the same for an id.
func MACFor(id string) net.HardwareAddr { return derivedMAC("guest " + id) }

// derivedMAC hashes a name into a locally administered unicast address.
func derivedMAC(of string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("banger " + of))
	return append(net.HardwareAddr{0x02}, sum[:5]...)
}

// otherSubnets are tried, in this order, where the host routes the default one already.
func otherSubnets() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("172.30.0.0/16"), netip.MustParsePrefix("10.213.0.0/16"),
		netip.MustParsePrefix("192.168.213.0/24"), netip.MustParsePrefix("100.96.0.0/16"), // RFC 6598
	}
}

// subnets are all that the bridge may have, the preferred one first.
func (n *Network) subnets() []netip.Prefix {
	if n.o.SubnetFixed {
		return []netip.Prefix{n.o.Subnet.Masked()}
	}
	all := otherSubnets()
	if n.o.Subnet.IsValid() {
		all = slices.Insert(all, 0, n.o.Subnet.Masked())
	}
	return all
}

// subnetOf finds the subnet that an address was taken from.
func (n *Network) subnetOf(ip netip.Addr) (netip.Prefix, bool) {
	for _, s := range n.subnets() {
		if s.Contains(ip) {
			return s, true
		}
	}
	return netip.Prefix{}, false
}

// gateway is the host's own address on the bridge.
func gateway(subnet netip.Prefix) netip.Addr { return host.Gateway(subnet) }

// AllocateIP finds the lowest address for a guest on the bridge that is not taken. All
// guests of a bridge share one subnet: the one that the taken addresses are in, else the
// first that the host does not route elsewhere.
func (n *Network) AllocateIP(taken []netip.Addr) (netip.Addr, error) {
	subnet, err := n.chooseSubnet(taken)
	if err != nil {
		return netip.Addr{}, err
	}
	used := make(map[netip.Addr]bool, len(taken))
	for _, a := range taken {
		used[a] = true
	}
	for ip := gateway(subnet).Next(); subnet.Contains(ip.Next()); ip = ip.Next() { // the last is the broadcast address
		if !used[ip] {
			return ip, nil
		}
	}
	return netip.Addr{}, api.Errorf(api.CodeExhausted, "all addresses of the guests' subnet %s are taken", subnet).
		WithHint("banger vm list --all")
}

func (n *Network) chooseSubnet(taken []netip.Addr) (netip.Prefix, error) {
	all := n.subnets()
	for _, s := range all {
		if slices.ContainsFunc(taken, s.Contains) {
			return s, nil
		}
	}
	var first error
	for _, s := range all {
		err := n.clash(s)
		if err == nil {
			return s, nil
		}
		if first == nil {
			first = err
		}
	}
	return netip.Prefix{}, first
}

// clash reports what of the host's lies in a subnet, other than our own bridge.
func (n *Network) clash(subnet netip.Prefix) error {
	routes, err := n.o.Host.Routes()
	if err != nil {
		return err
	}
	for _, r := range routes {
		// Halves and quarters of everything are how VPNs write a default route.
		if r.Link != n.o.Bridge && r.Destination.Bits() > 2 && r.Destination.Overlaps(subnet) {
			return clashError(subnet, "the host's route to "+r.Destination.String()+through(r.Link))
		}
	}
	for _, s := range resolvconf.Read(n.o.ResolvConf) {
		if subnet.Contains(s) {
			return clashError(subnet, "the host's resolver "+s.String())
		}
	}
	return nil
}

func through(link string) string {
	if link == "" {
		return ""
	}
	return " through " + link
}

func clashError(subnet netip.Prefix, with string) error {
	return api.Errorf(api.CodeConflict, "the guests' subnet %s overlaps %s", subnet, with).
		WithHint("set subnet = \"…/24\" in config.toml to one that is free, and create the VM again")
}

// ParseDNSAddress reads the configured dns_address: "bridge" (the bridge's address, port
// 53), ADDRESS, ADDRESS:PORT or :PORT (on the bridge's address). Loopback is refused: a
// guest's packets cannot be led there.
func ParseDNSAddress(s string) (netip.AddrPort, error) {
	if s == "" || s == "bridge" {
		return netip.AddrPort{}, nil
	}
	bad := api.Errorf(api.CodeInvalid, "dns_address %q is none of \"bridge\", ADDRESS, ADDRESS:PORT and :PORT", s).
		WithHint("banger config show")
	if port, ok := strings.CutPrefix(s, ":"); ok {
		s = "0.0.0.0:" + port
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return netip.AddrPort{}, bad
		}
		ap = netip.AddrPortFrom(a, 53)
	}
	if !ap.Addr().Is4() || ap.Addr().IsLoopback() || ap.Port() == 0 {
		return netip.AddrPort{}, bad
	}
	return ap, nil
}

// dnsAddress is where the DNS listens for a subnet.
func (n *Network) dnsAddress(subnet netip.Prefix) netip.AddrPort {
	a := n.o.DNSAddress
	switch {
	case a.Port() == 0:
		return netip.AddrPortFrom(gateway(subnet), 53)
	case !a.Addr().IsValid() || a.Addr().IsUnspecified():
		return netip.AddrPortFrom(gateway(subnet), a.Port())
	}
	return a
}
