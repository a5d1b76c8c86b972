package host

import (
	"context"
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
	MTU  int
	// Owner may open it; 0 is root.
	Owner int
}

// Networks changes network devices, rules and kernel settings. Everything is idempotent.
type Networks interface {
	// EnsureBridge makes the bridge as wanted: IPv6 off, up.
	EnsureBridge(ctx context.Context, b Bridge) error
	// OpenTap makes the tap if it is missing, and opens it; its link is up but in no bridge.
	OpenTap(ctx context.Context, t Tap) (*os.File, error)
	// JoinBridge puts a link into a bridge, isolated from the bridge's other isolated ports.
	JoinBridge(ctx context.Context, link, bridge string) error
	// DeleteLink removes a link; a missing one is no error.
	DeleteLink(ctx context.Context, name string) error
	// Links lists the names of all links that start with prefix.
	Links(prefix string) ([]string, error)
	// Routes lists the destinations that the host routes, the default route left out.
	Routes() ([]netip.Prefix, error)
	// UplinkMTU is the MTU of the link of the default route; 1500 where there is none.
	UplinkMTU() int
	// ApplyRules hands a whole ruleset to nft, which takes it in one transaction or not at all.
	ApplyRules(ctx context.Context, ruleset string) error
	// Rules lists the ruleset of the packet filter as nft prints it, tables of others included.
	Rules(ctx context.Context) (string, error)
	// Sysctl reads and SetSysctl writes a kernel setting, named with slashes: net/ipv4/ip_forward.
	Sysctl(name string) (string, error)
	SetSysctl(name, value string) error
}
