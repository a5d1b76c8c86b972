package dns

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"banger/internal/network/resolvconf"
)

const (
	askTime   = 2 * time.Second // per resolver
	totalTime = 5 * time.Second // resolvers in the guest wait five seconds, too
)

// forward asks the host's resolvers in their order, by the transport that the guest used.
func (s *Server) forward(q *dns.Msg, zone Zone, tcp bool) *dns.Msg {
	ctx, cancel := context.WithTimeout(s.ctx, totalTime)
	defer cancel()
	client := &dns.Client{Net: "udp", Timeout: askTime}
	if tcp {
		client.Net = "tcp"
	}
	var last *dns.Msg
	for _, addr := range resolvconf.Read(s.o.ResolvConf) {
		resolver := netip.AddrPortFrom(addr, 53)
		if resolver == s.o.Address || resolver.Addr() == zone.Gateway {
			continue // the host asks us: asking it would go round in circles
		}
		ask := q.Copy()
		ask.Id = dns.Id()
		a, err := exchange(ctx, client, ask, resolver)
		if err != nil {
			s.o.Log.Debug("resolver does not answer", "resolver", resolver, "error", err)
			continue
		}
		a.Id = q.Id
		last = withoutOurs(a, zone)
		if a.Rcode != dns.RcodeServerFailure && a.Rcode != dns.RcodeRefused {
			return last
		}
	}
	if last == nil {
		last = new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	}
	return last
}

// exchange ends with ctx, which the client's own does only by deadline.
func exchange(ctx context.Context, client *dns.Client, ask *dns.Msg, resolver netip.AddrPort) (*dns.Msg, error) {
	conn, err := client.DialContext(ctx, resolver.String())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		if stop() {
			_ = conn.Close()
		}
	}()
	a, _, err := client.ExchangeWithConnContext(ctx, ask, conn)
	return a, err
}

// withoutOurs takes addresses of our guests out of an answer from outside: a foreign name
// that points to one is an attempt to get at it through somebody's browser (DNS rebinding).
func withoutOurs(m *dns.Msg, zone Zone) *dns.Msg {
	ours := func(rr dns.RR) bool {
		a, ok := rr.(*dns.A)
		if !ok {
			return false
		}
		ip, ok := netip.AddrFromSlice(a.A.To4())
		return ok && zone.Subnet.Contains(ip)
	}
	m.Answer, m.Extra = slices.DeleteFunc(m.Answer, ours), slices.DeleteFunc(m.Extra, ours)
	return m
}
