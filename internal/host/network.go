package host

import (
	"context"
	"net"
	"net/netip"
	"os"
)

// Bridge is a wanted bridge.
type Bridge struct {
	Name    string
	Address netip.Prefix // the host's own address on it
	MTU     int
}

// Tap is a wanted tap device.
type Tap struct {
	Name string // at most 15 bytes
	// Bridge is whose tap it is, noted on the device itself, so that it can be found by that.
	Bridge string
	MTU    int
	// Owner may open it; 0 is root.
	Owner int
}

// Port is a wanted place in a bridge.
type Port struct {
	Link   string
	Bridge string
	// MAC is the only station behind the port: the bridge learns no other there.
	MAC net.HardwareAddr
}

// Route is a destination that the host routes.
type Route struct {
	Destination netip.Prefix
	Link        string // empty where the route has none
}

// Networks changes network devices, rules and kernel settings. Everything is idempotent.
type Networks interface {
	// CanBridge is nil where bridge, taps and rules can be made: root, /dev/net/tun, nft.
	// The error has code permission_denied, missing_dependency or unsupported.
	CanBridge() error
	// EnsureBridge makes the bridge as wanted: IPv6 off, up. A link of that name that banger
	// has not made is refused with code conflict.
	EnsureBridge(ctx context.Context, b Bridge) error
	// OpenTap makes the tap if it is missing, and opens it; its link is up but in no bridge. Frames carry a
	// virtio-net header (IFF_VNET_HDR). The device outlives the file.
	OpenTap(ctx context.Context, t Tap) (*os.File, error)
	// JoinBridge puts a link into a bridge, isolated from the bridge's other isolated ports.
	JoinBridge(ctx context.Context, p Port) error
	// SetTapUp plugs a tap of ours in or out: no frame passes one that is down. The error has code not_found when it is not there.
	SetTapUp(name string, up bool) error
	// DeleteLink removes a tap or a bridge that banger has made; a missing one is no error,
	// another's is refused with code conflict.
	DeleteLink(ctx context.Context, name string) error
	// Taps lists the names of all taps that were opened with this Tap.Bridge, sorted.
	Taps(bridge string) ([]string, error)
	// Routes lists the IPv4 destinations that the host routes, the default route left out.
	Routes() ([]Route, error)
	// UplinkMTU is the MTU of the link of the default route; 1500 where there is none.
	UplinkMTU() int
	// ApplyRules makes banger's part of the packet filter as wanted, in one transaction or not at all.
	ApplyRules(ctx context.Context, r Rules) error
	// Rules lists the ruleset of the packet filter as nft prints it, tables of others included, elements of
	// sets left out.
	Rules(ctx context.Context) (string, error)
	// Sysctl reads and SetSysctl writes a kernel setting, named with slashes: net/ipv4/ip_forward.
	Sysctl(name string) (string, error)
	SetSysctl(name, value string) error
	// RouteNames tells systemd-resolved to ask server (ADDRESS or ADDRESS:PORT) for names below domain, and for nothing else. It
	// forgets that by itself when the link goes.
	RouteNames(ctx context.Context, link, server, domain string) error
	// ListenUDP and ListenTCP open a server's socket on one address of this host.
	ListenUDP(ctx context.Context, addr netip.AddrPort) (net.PacketConn, error)
	ListenTCP(ctx context.Context, addr netip.AddrPort) (net.Listener, error)
}
