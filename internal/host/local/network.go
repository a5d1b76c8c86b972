package local

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
)

// networks implements host.Networks. Its zero value is ready.
type networks struct {
	// applied is nil where every change of rules is to write them all.
	applied *applied
}

// tunDevice makes taps.
const tunDevice = "/dev/net/tun"

// CanBridge reports what is missing for bridged networks.
func (networks) CanBridge() error {
	if os.Geteuid() != 0 {
		return api.Errorf(api.CodeDenied, "a bridge network needs root").WithHint("sudo banger system install   (or: banger run --net user)")
	}
	if _, err := os.Stat(tunDevice); err != nil {
		return api.Errorf(api.CodeUnsupported, "this kernel has no taps: %w", err).WithHint("modprobe tun")
	}
	_, err := processes{}.LookPath("nft")
	return err
}

// bridgeMAC is the address that our bridge of this name has. It is set when the bridge is
// made, in the same call, and so tells ours from another's even after a crash; being
// fixed, it does not change as taps come and go.
func bridgeMAC(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("banger bridge " + name))
	return append(net.HardwareAddr{0x02}, sum[:5]...)
}

// EnsureBridge makes the bridge, or mends what differs.
func (n networks) EnsureBridge(_ context.Context, b host.Bridge) error {
	link, err := findLink(b.Name)
	if err != nil {
		return fmt.Errorf("cannot look for bridge %s: %w", b.Name, err)
	}
	if link == nil {
		off := false
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = b.Name, bridgeMAC(b.Name)
		// Snooping forgets silent guests, and there is no multicast to save on a bridge of isolated ports.
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}); err != nil {
			return fmt.Errorf("cannot make bridge %s: %w", b.Name, err)
		}
		if link, err = netlink.LinkByName(b.Name); err != nil {
			return fmt.Errorf("cannot find bridge %s just made: %w", b.Name, err)
		}
	}
	if !ourBridge(link) {
		return api.Errorf(api.CodeConflict, "network device %s exists and is not banger's", b.Name).
			WithHint("set bridge = \"…\" in config.toml to a name that is free")
	}
	for _, s := range []struct{ name, value string }{
		{"net/ipv6/conf/" + b.Name + "/disable_ipv6", "1"},
		{"net/ipv4/conf/" + b.Name + "/accept_redirects", "0"},
		{"net/ipv4/conf/" + b.Name + "/send_redirects", "0"},
		{"net/ipv4/conf/" + b.Name + "/route_localnet", "0"},
		{"net/ipv4/conf/" + b.Name + "/rp_filter", "1"},
		// Answer ARP for the bridge's own address only, not for the host's others.
		{"net/ipv4/conf/" + b.Name + "/arp_ignore", "1"},
	} {
		// A kernel without IPv6 has nothing to switch off.
		if err := n.SetSysctl(s.name, s.value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := setAddress(link, b.Address); err != nil {
		return err
	}
	if link.Attrs().MTU != b.MTU {
		if err := netlink.LinkSetMTU(link, b.MTU); err != nil {
			return fmt.Errorf("cannot set the MTU of bridge %s to %d: %w", b.Name, b.MTU, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot bring up bridge %s: %w", b.Name, err)
	}
	return nil
}

// setAddress leaves exactly one IPv4 address on the link.
func setAddress(link netlink.Link, want netip.Prefix) error {
	name := link.Attrs().Name
	ipnet := &net.IPNet{IP: want.Addr().AsSlice(), Mask: net.CIDRMask(want.Bits(), 32)}
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("cannot list the addresses of %s: %w", name, err)
	}
	there := false
	for _, a := range have {
		if a.IPNet.String() == ipnet.String() {
			there = true
		} else if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("cannot take address %s from %s: %w", a.IPNet, name, err)
		}
	}
	if there {
		return nil
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipnet}); err != nil {
		return fmt.Errorf("cannot give %s the address %s: %w", name, want, err)
	}
	return nil
}

// JoinBridge makes the link an isolated port that knows one station only.
func (networks) JoinBridge(_ context.Context, p host.Port) error {
	link, err := netlink.LinkByName(p.Link)
	if err != nil {
		return fmt.Errorf("cannot find tap %s: %w", p.Link, err)
	}
	bridge, err := netlink.LinkByName(p.Bridge)
	if err != nil {
		return fmt.Errorf("cannot find bridge %s: %w", p.Bridge, err)
	}
	if err := netlink.LinkSetMaster(link, bridge); err != nil {
		return fmt.Errorf("cannot attach tap %s to bridge %s: %w", p.Link, p.Bridge, err)
	}
	// Nothing is learnt and nothing unknown is flooded, so no guest ever sees another's frames,
	// nor can it move another's address to its own port.
	station := &netlink.Neigh{
		LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP,
		Flags: netlink.NTF_MASTER, HardwareAddr: p.MAC,
	}
	err = errors.Join(
		netlink.LinkSetIsolated(link, true), netlink.LinkSetLearning(link, false),
		netlink.LinkSetFlood(link, false), netlink.NeighSet(station),
	)
	if err != nil {
		return errors.Join(fmt.Errorf("cannot isolate tap %s in bridge %s: %w", p.Link, p.Bridge, err), netlink.LinkSetNoMaster(link))
	}
	return nil
}

// DeleteLink removes what EnsureBridge or OpenTap made.
func (networks) DeleteLink(_ context.Context, name string) error {
	link, err := findLink(name)
	if err != nil || link == nil {
		return err
	}
	if !ourBridge(link) && !ourTap(link) {
		return api.Errorf(api.CodeConflict, "network device %s is not banger's", name)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("cannot remove %s: %w", name, err)
	}
	return nil
}

// Taps finds them by the note that OpenTap left.
func (networks) Taps(bridge string) ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("cannot list network devices: %w", err)
	}
	var names []string
	for _, l := range links {
		if ourTap(l) && l.Attrs().Alias == tapAlias(bridge) {
			names = append(names, l.Attrs().Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func ourBridge(l netlink.Link) bool {
	return l.Type() == "bridge" && l.Attrs().HardwareAddr.String() == bridgeMAC(l.Attrs().Name).String()
}

func ourTap(l netlink.Link) bool {
	return l.Type() == "tuntap" && strings.HasPrefix(l.Attrs().Alias, tapAlias(""))
}

// findLink is nil without error for a link that is not there.
func findLink(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, nil
	}
	return link, err
}

// Sysctl reads below /proc/sys.
func (networks) Sysctl(name string) (string, error) {
	text, err := os.ReadFile(filepath.Join("/proc/sys", name))
	if err != nil {
		return "", fmt.Errorf("cannot read the kernel setting %s: %w", name, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// SetSysctl writes below /proc/sys, only where the value differs.
func (n networks) SetSysctl(name, value string) error {
	if have, err := n.Sysctl(name); err == nil && have == value {
		return nil
	}
	if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0); err != nil {
		return fmt.Errorf("cannot set the kernel setting %s to %s: %w", name, value, err)
	}
	return nil
}
