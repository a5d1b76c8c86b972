// Package network connects guests: a bridge with taps, packet-filter rules, addresses
// and names for NetBridge, and a process per VM for NetUser. It owns everything of
// banger's on the host that has to do with networks, says what is wanted as a whole, and leaves
// nothing behind when the last guest has gone. template, vm, doctor and daemon may import it.
//
// What a guest may do on a bridge: send from its own MAC and IPv4 address only; ask the
// daemon's DNS on the bridge's address, and ping that; reach what the host routes, through NAT.
// It reaches no other guest, no other port of the host on any of its addresses, nothing that the host
// publishes for others by DNAT, no link-local address (so no cloud metadata), nothing over IPv6.
package network

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/keylock"
	"banger/internal/network/dns"
)

// Options is what a Network works with.
type Options struct {
	Host  host.Host
	Paths config.Paths
	// Bridge is the name of the bridge to make; empty means banger0. A daemon with another
	// bridge has its own table of rules and its own taps.
	Bridge string
	// Subnet is for the guests on the bridge. With SubnetFixed it is that or an error; else,
	// where the host routes it already, the next of a list is taken.
	Subnet      netip.Prefix
	SubnetFixed bool
	// DNSAddress is where the daemon answers names; see ParseDNSAddress. Zero: the bridge's address, port 53.
	// Guests always ask the bridge's address on port 53.
	DNSAddress netip.AddrPort
	// ResolvConf tells the host's resolvers; empty means /etc/resolv.conf.
	ResolvConf string
	// Linger is how long bridge, rules, DNS and ip_forward stay when the last guest on the bridge has gone, for the next one;
	// 0: not at all.
	Linger time.Duration
	// UserFilter is the command that runs sieve.Main, such as {"/proc/self/exe", "net-filter"}.
	UserFilter []string
	Log        *slog.Logger
}

// DefaultBridge is the bridge's name where none is configured.
const DefaultBridge = host.DefaultBridge

// Guest is a VM as the network knows it.
type Guest struct {
	ID   string
	Name string // a DNS label; NAME.vm is answered. Empty: none is
	Kind api.NetKind
	MAC  string
	IP   netip.Addr
	// Tap is TapName(ID) for NetBridge; may be left empty.
	Tap string
	// UID is its VMM's, which may open the tap itself; 0 is root.
	UID int
	// Joined is true when the guest has confirmed its address: Set then puts its tap back into the bridge.
	Joined bool
}

// SetIP parses a dotted quad; anything else is no address.
func (g *Guest) SetIP(s string) {
	if a, err := netip.ParseAddr(s); err == nil {
		g.IP = a
	}
}

func (g Guest) tap() string {
	if g.Tap != "" {
		return g.Tap
	}
	return TapName(g.ID)
}

func (g Guest) mac() net.HardwareAddr {
	m, _ := net.ParseMAC(g.MAC)
	return m
}

func (g Guest) pin() host.Pin { return host.Pin{Tap: g.tap(), MAC: g.mac(), IP: g.IP} }

// Link is what a VMM needs for a guest's network device; the zero Link is for NetNone.
type Link struct {
	Tap     *os.File // NetBridge: an open tap with IFF_VNET_HDR
	TapName string
	Socket  string // NetUser: a unix stream socket that listens already; takes one connection

	pins *pinning // nil: they are in place
}

// pinning is the making of a guest's pins.
type pinning struct {
	done chan struct{}
	err  error // read after done
}

// Pinned returns when the guest may be let run: the pins of its MAC and address are in place.
func (l Link) Pinned(ctx context.Context) error {
	if l.pins == nil {
		return nil
	}
	select {
	case <-l.pins.done:
		return l.pins.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close gives back the descriptor; the VMM has its own by then. It may be called twice.
func (l Link) Close() error {
	if l.Tap == nil {
		return nil
	}
	if err := l.Tap.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// Network is the network of one daemon. Safe for concurrent use.
type Network struct {
	o    Options
	lock keylock.Locks // one key: the following, and the host's state, change together

	guests    map[string]Guest  // on the bridge, by id
	anonymous map[string]string // taps of those of AttachAnonymous, by id
	dns       *dns.Server       // nil while there is no bridge
	// checked is when the bridge and others' forwarding were looked at last, and planned what came of it; zero: not yet.
	checked    time.Time
	planned    forwarding
	subnetMade netip.Prefix // with checked
	// idle ends the lingering; nil while there are guests, or no bridge.
	idle *time.Timer
}

// New returns a Network; it touches nothing yet.
func New(o Options) *Network {
	if o.Bridge == "" {
		o.Bridge = DefaultBridge
	}
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Network{o: o, guests: map[string]Guest{}, anonymous: map[string]string{}}
}

// hold takes the network's lock.
func (n *Network) hold(ctx context.Context) (func(), error) { return n.lock.Lock(ctx, "network") }

// Check refuses a kind of network that this host cannot have, before anything is made.
func (n *Network) Check(kind api.NetKind) error {
	switch kind {
	case api.NetBridge:
		return n.o.Host.CanBridge()
	case api.NetUser:
		_, err := n.o.Host.LookPath("passt")
		return err
	case api.NetNone:
		return nil
	}
	return api.Errorf(api.CodeInvalid, "%q is no kind of network", kind).WithHint("banger run --net bridge|user|none")
}
