package dns

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
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
	for _, resolver := range HostResolvers(s.o.ResolvConf) {
		if resolver == s.o.Address || resolver.Addr() == zone.Gateway {
			continue // the host asks us: asking it would go round in circles
		}
		ask := q.Copy()
		ask.Id = dns.Id()
		a, _, err := client.ExchangeContext(ctx, ask, resolver.String())
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

// HostResolvers reads the resolvers of a resolv.conf, port 53, in order. It is read for each question, so
// that a VPN's resolvers count from the moment they are there. There are none if it cannot be read.
func HostResolvers(resolvConf string) []netip.AddrPort {
	text, err := os.ReadFile(resolvConf)
	if err != nil {
		return nil
	}
	var out []netip.AddrPort
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, netip.AddrPortFrom(a.Unmap(), 53))
		}
	}
	return out
}
