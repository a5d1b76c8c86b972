package dns

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// Zone is what we know ourselves: the names of guests.
type Zone struct {
	// Subnet is the guests'; its reverse names are ours.
	Subnet netip.Prefix
	// Gateway is the host's own address in it; it has no name.
	Gateway netip.Addr
	// Names maps DNS labels to addresses.
	Names map[string]netip.Addr
}

const (
	domain = "vm."
	// ttl is short: a name may belong to another machine a moment later.
	ttl = 5
)

// answer is nil for a question that is not ours to answer.
func (z Zone) answer(q *dns.Msg) *dns.Msg {
	question := q.Question[0]
	name := strings.ToLower(question.Name)
	switch {
	case dns.IsSubDomain(domain, name):
		return z.forwardName(q, question, name)
	case dns.IsSubDomain("in-addr.arpa.", name):
		if ip, ok := reverse(name); ok && z.Subnet.Contains(ip) {
			return z.reverseName(q, question, ip)
		}
	}
	return nil
}

func (z Zone) forwardName(q *dns.Msg, question dns.Question, name string) *dns.Msg {
	label, _ := strings.CutSuffix(name, "."+domain)
	ip, known := z.Names[label]
	switch {
	case name == domain:
		return z.reply(q, dns.RcodeSuccess)
	case !known:
		return z.reply(q, dns.RcodeNameError)
	case question.Qtype == dns.TypeA || question.Qtype == dns.TypeANY:
		return z.reply(q, dns.RcodeSuccess, &dns.A{Hdr: header(question.Name, dns.TypeA), A: ip.AsSlice()})
	}
	return z.reply(q, dns.RcodeSuccess) // AAAA and all others: the name is there, that record is not
}

func (z Zone) reverseName(q *dns.Msg, question dns.Question, ip netip.Addr) *dns.Msg {
	for label, a := range z.Names {
		if a != ip {
			continue
		}
		if question.Qtype == dns.TypePTR || question.Qtype == dns.TypeANY {
			return z.reply(q, dns.RcodeSuccess, &dns.PTR{Hdr: header(question.Name, dns.TypePTR), Ptr: label + "." + domain})
		}
		return z.reply(q, dns.RcodeSuccess)
	}
	return z.reply(q, dns.RcodeNameError)
}

// reply is authoritative; without an answer it says for how long that holds.
func (z Zone) reply(q *dns.Msg, rcode int, answers ...dns.RR) *dns.Msg {
	m := new(dns.Msg).SetRcode(q, rcode)
	m.Authoritative, m.RecursionAvailable, m.Answer = true, true, answers
	if len(answers) == 0 {
		m.Ns = []dns.RR{&dns.SOA{
			Hdr: header(domain, dns.TypeSOA), Ns: "ns." + domain, Mbox: "root." + domain,
			Serial: 1, Refresh: 60, Retry: 60, Expire: 60, Minttl: ttl,
		}}
	}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(dns.DefaultMsgSize, false)
	}
	return m
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// reverse reads 4.3.2.1.in-addr.arpa.
func reverse(name string) (netip.Addr, bool) {
	labels := dns.SplitDomainName(name)
	if len(labels) != 6 {
		return netip.Addr{}, false
	}
	var b [4]byte
	for i := range 4 {
		v, err := strconv.ParseUint(labels[3-i], 10, 8)
		if err != nil {
			return netip.Addr{}, false
		}
		b[i] = byte(v)
	}
	return netip.AddrFrom4(b), true
}
