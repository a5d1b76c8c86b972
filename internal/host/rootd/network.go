package rootd

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"

	"golang.org/x/sys/unix"

	"banger/internal/host"
	"banger/internal/host/verb"
)

func (s *Server) ensureBridge(ctx context.Context, _ *question, b host.Bridge) (any, error) {
	subnet := b.Address.Masked()
	switch err := s.subnet(subnet); {
	case b.Name != s.o.Bridge:
		return nil, refuse("the bridge is %s, not %q", s.o.Bridge, b.Name)
	case err != nil:
		return nil, err
	case b.Address.Addr() != host.Gateway(subnet):
		return nil, refuse("the bridge's address is the first of its subnet, not %s", b.Address)
	case badMTU(b.MTU):
		return nil, refuse("%d is no MTU", b.MTU)
	}
	return nil, s.host.EnsureBridge(ctx, b)
}

// subnet refuses what would take addresses from the world or from this host's other networks.
func (s *Server) subnet(p netip.Prefix) error {
	if !p.IsValid() || !p.Addr().Is4() || p != p.Masked() || p.Bits() < 8 || p.Bits() > 29 {
		return refuse("%s is no subnet for guests", p)
	}
	if p != s.o.Subnet && !slices.ContainsFunc(private(), func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }) {
		return refuse("%s is not private", p)
	}
	routes, err := s.host.Routes()
	if err != nil {
		return err
	}
	for _, r := range routes {
		// Halves and quarters of everything are how VPNs write a default route.
		if r.Link != s.o.Bridge && r.Destination.Bits() > 2 && r.Destination.Overlaps(p) {
			return refuse("this host routes %s already", r.Destination)
		}
	}
	return nil
}

// private are the networks of RFC 1918 and RFC 6598.
func private() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"),
	}
}

func badMTU(n int) bool { return n < 576 || n > 65535 }

// tapName is what network.TapName makes.
func tapName(name string) bool { return regexp.MustCompile(`^bgr-[a-z0-9]{1,8}$`).MatchString(name) }

// ourTap refuses what is not a tap of our bridge.
func (s *Server) ourTap(name string) error {
	taps, err := s.host.Taps(s.o.Bridge)
	if err != nil {
		return err
	}
	if !tapName(name) || !slices.Contains(taps, name) {
		return refuse("%q is no tap of bridge %s", name, s.o.Bridge)
	}
	return nil
}

// exists asks by netlink: sysfs may show another network namespace.
func exists(link string) bool {
	_, err := net.InterfaceByName(link)
	return err == nil
}

func (s *Server) openTap(ctx context.Context, q *question, t host.Tap) (any, error) {
	switch {
	case !tapName(t.Name):
		return nil, refuse("%q is no name for a tap of banger's", t.Name)
	case t.Bridge != s.o.Bridge:
		return nil, refuse("the bridge is %s, not %q", s.o.Bridge, t.Bridge)
	case badMTU(t.MTU):
		return nil, refuse("%d is no MTU", t.MTU)
	case t.Owner != 0 && t.Owner != s.o.UID && !s.vmm(t.Owner):
		return nil, refuse("a tap cannot belong to uid %d", t.Owner)
	}
	if exists(t.Name) {
		if err := s.ourTap(t.Name); err != nil {
			return nil, err
		}
	}
	f, err := s.host.OpenTap(ctx, t)
	if err != nil {
		return nil, err
	}
	q.out = []*os.File{f}
	return nil, nil
}

func (s *Server) setTapUp(_ context.Context, _ *question, a verb.LinkStateArgs) (any, error) {
	if !tapName(a.Name) {
		return nil, refuse("%q is no tap of bridge %s", a.Name, s.o.Bridge)
	}
	if exists(a.Name) { // else it is said that there is none
		if err := s.ourTap(a.Name); err != nil {
			return nil, err
		}
	}
	return nil, s.host.SetTapUp(a.Name, a.Up)
}

func (s *Server) joinBridge(ctx context.Context, _ *question, p host.Port) (any, error) {
	if err := s.ourTap(p.Link); err != nil {
		return nil, err
	}
	if p.Bridge != s.o.Bridge {
		return nil, refuse("the bridge is %s, not %q", s.o.Bridge, p.Bridge)
	}
	if badMAC(p.MAC) {
		return nil, refuse("%q is no station", p.MAC)
	}
	return nil, s.host.JoinBridge(ctx, p)
}

func badMAC(m net.HardwareAddr) bool { return len(m) != 6 || m[0]&1 != 0 }

func (s *Server) deleteLink(ctx context.Context, _ *question, a verb.LinkArgs) (any, error) {
	if a.Name != s.o.Bridge {
		if tapName(a.Name) && !exists(a.Name) {
			return nil, nil
		}
		if err := s.ourTap(a.Name); err != nil {
			return nil, err
		}
	}
	return nil, s.host.DeleteLink(ctx, a.Name)
}

func (s *Server) applyRules(ctx context.Context, _ *question, r host.Rules) (any, error) {
	if r.Bridge != s.o.Bridge {
		return nil, refuse("the bridge is %s, not %q", s.o.Bridge, r.Bridge)
	}
	if !r.Remove {
		if err := s.subnet(r.Subnet); err != nil {
			return nil, err
		}
		if !s.answers(r.DNS.Addr(), r.Subnet) {
			return nil, refuse("guests cannot be led to %s for names", r.DNS)
		}
	}
	for _, g := range r.Guests {
		if !tapName(g.Tap) || badMAC(g.MAC) || !r.Subnet.Contains(g.IP) || g.IP == host.Gateway(r.Subnet) {
			return nil, refuse("%q with %s and %s is no guest of %s", g.Tap, g.MAC, g.IP, r.Subnet)
		}
	}
	return nil, s.host.ApplyRules(ctx, r)
}

// answers reports whether names may be answered at an address: the bridge's, or the one that root has configured.
func (s *Server) answers(a netip.Addr, subnet netip.Prefix) bool {
	return a.IsValid() && (a == host.Gateway(subnet) || s.o.DNS.IsValid() && a == s.o.DNS.Addr())
}

// listRules answers by a file: there is no bound to what others have.
func (s *Server) listRules(ctx context.Context, q *question) (any, error) {
	text, err := s.host.Rules(ctx)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("rules", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "rules")
	q.out = []*os.File{f}
	_, err = f.WriteString(text)
	return nil, err
}

func (s *Server) setSysctl(_ context.Context, _ *question, a verb.SysctlArgs) (any, error) {
	if a.Name != "net/ipv4/ip_forward" || a.Value != "0" && a.Value != "1" {
		return nil, refuse("the kernel setting %s cannot be set to %q", a.Name, a.Value)
	}
	return nil, s.host.SetSysctl(a.Name, a.Value)
}

// bridgeAddress is the one that the bridge has now.
func (s *Server) bridgeAddress() (netip.Prefix, error) {
	link, err := net.InterfaceByName(s.o.Bridge)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("cannot find bridge %s: %w", s.o.Bridge, err)
	}
	addrs, err := link.Addrs()
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("bridge %s has no address: %w", s.o.Bridge, fs.ErrNotExist)
}

func (s *Server) routeNames(ctx context.Context, _ *question, a verb.NamesArgs) (any, error) {
	at, err := s.bridgeAddress()
	if err != nil {
		return nil, err
	}
	server, err := netip.ParseAddr(a.Server)
	if ap, e := netip.ParseAddrPort(a.Server); e == nil {
		server, err = ap.Addr(), nil
	}
	if err != nil || a.Link != s.o.Bridge || a.Domain != "vm" || !s.answers(server, at) {
		return nil, refuse("names below %q cannot be led to %q at %q", a.Domain, a.Server, a.Link)
	}
	return nil, s.host.RouteNames(ctx, a.Link, a.Server, a.Domain)
}

// listen is for the one port of ours that takes root.
func (s *Server) listen(ctx context.Context, q *question, a verb.ListenArgs) (any, error) {
	at, err := s.bridgeAddress()
	if err != nil {
		return nil, err
	}
	if a.Address.Port() != 53 || !s.answers(a.Address.Addr(), at) {
		return nil, refuse("cannot listen at %s: only port 53 of the bridge's address", a.Address)
	}
	var sock interface{ File() (*os.File, error) }
	switch a.Network {
	case "udp4":
		c, err := s.host.ListenUDP(ctx, a.Address)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		sock = c.(*net.UDPConn)
	case "tcp4":
		l, err := s.host.ListenTCP(ctx, a.Address)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		sock = l.(*net.TCPListener)
	default:
		return nil, refuse("%q is no network to listen on", a.Network)
	}
	f, err := sock.File()
	if err != nil {
		return nil, err
	}
	q.out = []*os.File{f}
	return nil, nil
}
