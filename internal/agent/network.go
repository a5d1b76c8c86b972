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

	"banger/api"
	"banger/api/agentapi"
)

// loopbackUp brings up lo, which every guest has.
func loopbackUp() error {
	lo, err := openDevice("lo")
	if err != nil {
		return err
	}
	defer lo.close()
	return lo.setUp(true)
}

// setNetwork gives the guest's one network device what the host has planned for it and takes away what else it
// had. Where that is another address, hardware or IP, the device goes down first: with it go what waits to be sent, the
// routes and the neighbours. thawed is as in agentapi: a fork is on the network under the old address too, so its
// connections are cut off; one that goes on forgets its neighbours. The device of one that is born is up since its
// template was released, and has never had an address.
func (s *system) setNetwork(n agentapi.Network, thawed string, put put) error {
	want, err := parseNetwork(n)
	if err != nil {
		return err
	}
	d, err := s.device()
	if err != nil {
		return err
	}
	if err := d.become(want, n.MTU, thawed); err != nil {
		return err
	}
	if want.address != nil {
		s.announce(want.address.IP) // which may be at another port now
	}
	if want.resolv == "" {
		return nil
	}
	_, err = put("/etc/resolv.conf", []byte(want.resolv), 0o644)
	return err
}

// device is the guest's network device, without IPv6. It is called with change held.
func (s *system) device() (*netDevice, error) {
	if s.nic == nil {
		name, err := nic()
		if err != nil {
			return nil, err
		}
		if err := ipv6Off(name); err != nil {
			return nil, err
		}
		if s.nic, err = openDevice(name); err != nil {
			return nil, err
		}
	}
	return s.nic, nil
}

// born stands beside agentapi's ways of being thawed for a clone that gets its first identity.
const born = "born"

// plan is a Network that was read; nil means to leave it.
type plan struct {
	mac     net.HardwareAddr
	address *net.IPNet
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
		ip, network, err := net.ParseCIDR(n.Address)
		if err != nil || ip.To4() == nil {
			return p, api.Errorf(api.CodeInvalid, "bad address %q: not an IPv4 address with the length of its prefix", n.Address)
		}
		p.address = &net.IPNet{IP: ip.To4(), Mask: network.Mask}
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

// become makes the device what is wanted, and leaves it up.
func (d *netDevice) become(want plan, mtu int, thawed string) error {
	index, err := d.index()
	if err != nil {
		return err
	}
	mac, err := d.hardware()
	if err != nil {
		return err
	}
	up, err := d.up()
	if err != nil {
		return err
	}
	newMAC := want.mac != nil && !bytes.Equal(mac, want.mac)
	if fork := thawed == agentapi.ThawedFork; thawed != born && (up || fork) { // one that was never up has nothing to give up
		if err := d.giveUp(index, newMAC, want.address, fork); err != nil {
			return err
		}
	}
	if thawed == agentapi.ThawedResume && want.mac == nil {
		want.mac = mac
	}
	// They may have moved while it stood still: setting the address that it has makes the kernel forget them.
	if newMAC || thawed == agentapi.ThawedResume {
		if err := d.setHardware(want.mac); err != nil {
			return err
		}
	}
	if now, err := d.mtu(); err != nil || (mtu > 0 && mtu != now) {
		if err == nil {
			err = d.setMTU(mtu)
		}
		if err != nil {
			return err
		}
	}
	if err := d.setUp(true); err != nil {
		return err
	}
	var msgs []rtMessage
	if want.address != nil {
		msgs = append(msgs, addAddress(index, want.address))
	}
	if want.gateway != nil {
		msgs = append(msgs, addDefaultRoute(index, want.gateway))
	}
	return d.change(msgs...)
}

// giveUp takes from a device what belongs to another address. Only a device that stays what it was stays up.
func (d *netDevice) giveUp(index int, newMAC bool, want *net.IPNet, another bool) error {
	old, err := d.addresses(index)
	if err != nil {
		return err
	}
	old = slices.DeleteFunc(old, func(a *net.IPNet) bool { return want == nil || a.String() == want.String() })
	if newMAC || len(old) > 0 || another {
		if err := d.setUp(false); err != nil {
			return err
		}
	}
	var msgs []rtMessage
	for _, a := range old {
		msgs = append(msgs, removeAddress(index, a))
	}
	if err := d.change(msgs...); err != nil || !another {
		return err
	}
	return cutConnections(old)
}

// nic is the name of the first network device that is hardware.
func nic() (string, error) {
	found, _ := filepath.Glob("/sys/class/net/*/device")
	if len(found) == 0 {
		return "", api.Errorf(api.CodeNotFound, "the guest has no network device")
	}
	slices.Sort(found)
	return filepath.Base(filepath.Dir(found[0])), nil
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
		b.WriteString("nameserver " + r + "\n")
	}
	if len(n.SearchList) > 0 {
		b.WriteString("search " + strings.Join(n.SearchList, " ") + "\n")
	}
	return b.String()
}
