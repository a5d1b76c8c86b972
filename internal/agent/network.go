package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/api"
	"banger/api/agentapi"
)

// loopbackUp brings up lo, which every guest has.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("cannot bring up lo: %w", err)
	}
	return nil
}

// setNetwork gives the guest's one network device what the host has planned for it
// and takes away what else it had.
func setNetwork(n agentapi.Network) error {
	link, err := nic()
	if err != nil {
		return err
	}
	name := link.Attrs().Name
	if err := ipv6Off(name); err != nil {
		return err
	}
	if err := setMAC(link, n.MAC); err != nil {
		return err
	}
	if n.MTU > 0 && link.Attrs().MTU != n.MTU {
		if err := netlink.LinkSetMTU(link, n.MTU); err != nil {
			return fmt.Errorf("cannot set the MTU of %s to %d: %w", name, n.MTU, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot bring up %s: %w", name, err)
	}
	if err := setAddress(link, n.Address); err != nil {
		return err
	}
	if err := setGateway(link, n.Gateway); err != nil {
		return err
	}
	if len(n.Resolvers) == 0 {
		return nil
	}
	_, err = putFile("/etc/resolv.conf", []byte(resolvConf(n)), 0o644)
	return err
}

// nic is the first network device that is hardware.
func nic() (netlink.Link, error) {
	found, _ := filepath.Glob("/sys/class/net/*/device")
	if len(found) == 0 {
		return nil, api.Errorf(api.CodeNotFound, "the guest has no network device")
	}
	slices.Sort(found)
	link, err := netlink.LinkByName(filepath.Base(filepath.Dir(found[0])))
	if err != nil {
		return nil, fmt.Errorf("cannot find the network device: %w", err)
	}
	return link, nil
}

// ipv6Off ends IPv6 on the device and on those made later; lo keeps ::1.
func ipv6Off(name string) error {
	for _, dir := range []string{"default", name} {
		path := "/proc/sys/net/ipv6/conf/" + dir + "/disable_ipv6"
		if err := os.WriteFile(path, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot switch IPv6 off: %w", err)
		}
	}
	return nil
}

// setMAC changes the hardware address, for which the device must be down.
func setMAC(link netlink.Link, mac string) error {
	if mac == "" {
		return nil
	}
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "bad MAC address: %w", err)
	}
	if bytes.Equal(link.Attrs().HardwareAddr, hw) {
		return nil
	}
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("cannot take down %s: %w", link.Attrs().Name, err)
	}
	if err := netlink.LinkSetHardwareAddr(link, hw); err != nil {
		return fmt.Errorf("cannot set the MAC address of %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// setAddress leaves the device with this IPv4 address only.
func setAddress(link netlink.Link, cidr string) error {
	if cidr == "" {
		return nil
	}
	want, err := netlink.ParseAddr(cidr)
	if err != nil {
		return api.Errorf(api.CodeInvalid, "bad address: %w", err)
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("cannot list addresses: %w", err)
	}
	for _, a := range have {
		if a.IPNet.String() == want.IPNet.String() {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("cannot remove address %s: %w", a.IPNet, err)
		}
	}
	if err := netlink.AddrReplace(link, want); err != nil {
		return fmt.Errorf("cannot set address %s: %w", cidr, err)
	}
	return nil
}

// setGateway makes the default route; a gateway outside of the subnet counts as on the link.
func setGateway(link netlink.Link, gateway string) error {
	if gateway == "" {
		return nil
	}
	ip := net.ParseIP(gateway).To4()
	if ip == nil {
		return api.Errorf(api.CodeInvalid, "bad gateway %q: not an IPv4 address", gateway)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: ip, Flags: int(netlink.FLAG_ONLINK),
		Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Protocol: unix.RTPROT_STATIC}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("cannot set the default route via %s: %w", gateway, err)
	}
	return nil
}

// resolvConf is resolv.conf(5).
func resolvConf(n agentapi.Network) string {
	var b strings.Builder
	for _, r := range n.Resolvers {
		fmt.Fprintf(&b, "nameserver %s\n", r)
	}
	if len(n.SearchList) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(n.SearchList, " "))
	}
	return b.String()
}
