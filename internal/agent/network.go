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
	if err == nil && lo.Attrs().Flags&net.FlagUp == 0 {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("cannot bring up lo: %w", err)
	}
	return nil
}

// setNetwork gives the guest's one network device what the host has planned for it and takes away what else it
// had. Where that is another address, hardware or IP, the device goes down first: with it go what waits to be sent, the
// routes and the neighbours. another means that the guest is a copy of one that is on the network
// under the old address: its connections are cut off.
func setNetwork(n agentapi.Network, another bool) error {
	want, err := parseNetwork(n)
	if err != nil {
		return err
	}
	link, err := nic()
	if err != nil {
		return err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot set up the network: %w", err)
	}
	defer h.Close()
	d := device{Handle: h, link: link, name: link.Attrs().Name}
	if err := ipv6Off(d.name); err != nil {
		return err
	}
	return d.set(n.MTU, want, another)
}

// plan is a Network that was read; nil means to leave it.
type plan struct {
	mac     net.HardwareAddr
	address *netlink.Addr
	gateway net.IP
	resolv  string
}

func parseNetwork(n agentapi.Network) (p plan, err error) {
	if n.MAC != "" {
		if p.mac, err = net.ParseMAC(n.MAC); err != nil {
			return p, api.Errorf(api.CodeInvalid, "bad MAC address: %w", err)
		}
	}
	if n.Address != "" {
		if p.address, err = netlink.ParseAddr(n.Address); err != nil {
			return p, api.Errorf(api.CodeInvalid, "bad address: %w", err)
		}
	}
	if n.Gateway != "" {
		if p.gateway = net.ParseIP(n.Gateway).To4(); p.gateway == nil {
			return p, api.Errorf(api.CodeInvalid, "bad gateway %q: not an IPv4 address", n.Gateway)
		}
	}
	if len(n.Resolvers) > 0 {
		p.resolv = resolvConf(n)
	}
	return p, nil
}

// device is the guest's network device.
type device struct {
	*netlink.Handle
	link netlink.Link
	name string
}

func (d device) set(mtu int, want plan, another bool) error {
	have := d.link.Attrs()
	old, err := d.others(want.address)
	if err != nil {
		return err
	}
	newMAC := want.mac != nil && !bytes.Equal(have.HardwareAddr, want.mac)
	if have.Flags&net.FlagUp != 0 {
		if newMAC || len(old) > 0 || another {
			if err := d.LinkSetDown(d.link); err != nil {
				return fmt.Errorf("cannot take down %s: %w", d.name, err)
			}
		} else if err := d.forgetNeighbours(); err != nil { // they may have moved while the guest stood still
			return err
		}
	}
	for _, a := range old {
		if err := d.AddrDel(d.link, &a); err != nil {
			return fmt.Errorf("cannot remove address %s: %w", a.IPNet, err)
		}
	}
	if another {
		if err := cutConnections(old); err != nil {
			return err
		}
	}
	if newMAC {
		if err := d.LinkSetHardwareAddr(d.link, want.mac); err != nil {
			return fmt.Errorf("cannot set the MAC address of %s: %w", d.name, err)
		}
	}
	if mtu > 0 && have.MTU != mtu {
		if err := d.LinkSetMTU(d.link, mtu); err != nil {
			return fmt.Errorf("cannot set the MTU of %s to %d: %w", d.name, mtu, err)
		}
	}
	if want.address != nil {
		if err := d.AddrReplace(d.link, want.address); err != nil {
			return fmt.Errorf("cannot set address %s: %w", want.address.IPNet, err)
		}
	}
	if err := d.LinkSetUp(d.link); err != nil {
		return fmt.Errorf("cannot bring up %s: %w", d.name, err)
	}
	if err := d.setGateway(want.gateway); err != nil {
		return err
	}
	if want.resolv == "" {
		return nil
	}
	_, err = putFile("/etc/resolv.conf", []byte(want.resolv), 0o644)
	return err
}

// others are the IPv4 addresses that the device has and should not have.
func (d device) others(want *netlink.Addr) ([]netlink.Addr, error) {
	if want == nil {
		return nil, nil
	}
	have, err := d.AddrList(d.link, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("cannot list addresses: %w", err)
	}
	return slices.DeleteFunc(have, func(a netlink.Addr) bool { return a.IPNet.String() == want.IPNet.String() }), nil
}

func (d device) forgetNeighbours() error {
	list, err := d.NeighList(d.link.Attrs().Index, netlink.FAMILY_V4)
	for _, n := range list {
		if n.State&netlink.NUD_PERMANENT == 0 {
			_ = d.NeighDel(&n) // one that has gone meanwhile is no loss
		}
	}
	if err != nil {
		return fmt.Errorf("cannot forget the neighbours: %w", err)
	}
	return nil
}

// setGateway makes the default route; a gateway outside of the subnet counts as on the link.
func (d device) setGateway(gateway net.IP) error {
	if gateway == nil {
		return nil
	}
	route := &netlink.Route{LinkIndex: d.link.Attrs().Index, Gw: gateway, Flags: int(netlink.FLAG_ONLINK),
		Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Protocol: unix.RTPROT_STATIC}
	if err := d.RouteReplace(route); err != nil {
		return fmt.Errorf("cannot set the default route via %s: %w", gateway, err)
	}
	return nil
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
		if now, err := os.ReadFile(path); err == nil && len(now) > 0 && now[0] == '1' {
			continue
		}
		if err := os.WriteFile(path, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot switch IPv6 off: %w", err)
		}
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
