package fake

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"banger/internal/host"
)

// networks implements host.Networks. Its zero value is a host with one uplink of 1500 bytes
// that does not forward.
type networks struct {
	// NoBridge is what CanBridge answers; HostRoutes, MTU and ForeignRules are what the host has besides banger's.
	NoBridge     error
	HostRoutes   []host.Route
	MTU          int
	ForeignRules string

	script *transcript

	mu        sync.Mutex // protects the following
	bridges   map[string]host.Bridge
	taps      map[string]host.Tap
	rules     string
	sysctls   map[string]string
	listeners map[netip.AddrPort]netip.AddrPort
}

// note is called with mu held.
func (n *networks) note(format string, args ...any) {
	n.script.add(fmt.Sprintf(format, args...))
	if n.taps == nil {
		n.bridges, n.taps = map[string]host.Bridge{}, map[string]host.Tap{}
		n.sysctls, n.listeners = map[string]string{}, map[netip.AddrPort]netip.AddrPort{}
	}
}

func (n *networks) CanBridge() error { return n.NoBridge }

func (n *networks) EnsureBridge(_ context.Context, b host.Bridge) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.bridges[b.Name] != b {
		n.note("bridge %s %s mtu %d", b.Name, b.Address, b.MTU)
		n.bridges[b.Name] = b
	}
	return nil
}

// OpenTap gives an open /dev/null.
func (n *networks) OpenTap(_ context.Context, t host.Tap) (*os.File, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note("open tap %s of %s mtu %d", t.Name, t.Bridge, t.MTU)
	n.taps[t.Name] = t
	return os.OpenFile(os.DevNull, os.O_RDWR, 0)
}

func (n *networks) SetTapUp(name string, up bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.taps[name]; !ok {
		return fmt.Errorf("cannot find tap %s: %w", name, fs.ErrNotExist)
	}
	n.note("tap %s up %v", name, up)
	return nil
}

func (n *networks) JoinBridge(_ context.Context, p host.Port) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.taps[p.Link]; !ok {
		return fmt.Errorf("cannot find tap %s: %w", p.Link, fs.ErrNotExist)
	}
	n.note("join %s to %s for %s", p.Link, p.Bridge, p.MAC)
	return nil
}

func (n *networks) DeleteLink(_ context.Context, name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, tap := n.taps[name]
	_, bridge := n.bridges[name]
	if tap || bridge {
		n.note("delete %s", name)
		delete(n.taps, name)
		delete(n.bridges, name)
	}
	return nil
}

func (n *networks) Taps(bridge string) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var names []string
	for name, t := range n.taps {
		if t.Bridge == bridge {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (n *networks) Routes() ([]host.Route, error) { return n.HostRoutes, nil }

func (n *networks) UplinkMTU() int {
	if n.MTU == 0 {
		return 1500
	}
	return n.MTU
}

func (n *networks) ApplyRules(_ context.Context, r host.Rules) error {
	ruleset := r.Text()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.rules == ruleset {
		return nil
	}
	n.note("rules:\n\t%s", strings.ReplaceAll(strings.TrimSuffix(ruleset, "\n"), "\n", "\n\t"))
	n.rules = ruleset
	return nil
}

// RouteNames is noted.
func (n *networks) RouteNames(_ context.Context, link, server, domain string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note("names below %s are asked of %s at %s", domain, server, link)
	return nil
}

// Rules knows of the others' rules only.
func (n *networks) Rules(context.Context) (string, error) { return n.ForeignRules, nil }

func (n *networks) Sysctl(name string) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if v, ok := n.sysctls[name]; ok {
		return v, nil
	}
	return "0", nil
}

func (n *networks) SetSysctl(name, value string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sysctls[name] != value {
		n.note("sysctl %s = %s", name, value)
		n.sysctls[name] = value
	}
	return nil
}

// ListenUDP and ListenTCP listen on any free port of 127.0.0.1 instead; see Listening.
func (n *networks) ListenUDP(ctx context.Context, addr netip.AddrPort) (net.PacketConn, error) {
	var lc net.ListenConfig
	c, err := lc.ListenPacket(ctx, "udp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note("listen udp %s", addr)
	n.listeners[addr] = netip.MustParseAddrPort(c.LocalAddr().String())
	return c, nil
}

func (n *networks) ListenTCP(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.note("listen tcp %s", addr)
	return l, nil
}

// Listening is where a socket that asked for addr really listens: for UDP.
func (n *networks) Listening(addr netip.AddrPort) (netip.AddrPort, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, ok := n.listeners[addr]
	return a, ok
}
