package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"banger/internal/host/fake"
	"banger/internal/loud"
)

var zone = Zone{
	Subnet: netip.MustParsePrefix("10.213.0.0/16"), Gateway: netip.MustParseAddr("10.213.0.1"),
	Names: map[string]netip.Addr{"web": netip.MustParseAddr("10.213.0.2")},
}

func TestZone(t *testing.T) {
	for _, c := range []struct {
		name  string
		qtype uint16
		want  string
	}{
		{"web.vm.", dns.TypeA, "NOERROR 10.213.0.2"},
		{"WEB.Vm.", dns.TypeA, "NOERROR 10.213.0.2"},
		{"web.vm.", dns.TypeAAAA, "NOERROR"},
		{"web.vm.", dns.TypeMX, "NOERROR"},
		{"web.vm.", dns.TypeANY, "NOERROR 10.213.0.2"},
		{"vm.", dns.TypeA, "NOERROR"},
		{"other.vm.", dns.TypeA, "NXDOMAIN"},
		{"www.web.vm.", dns.TypeA, "NXDOMAIN"},
		{`web\.vm.`, dns.TypeA, "not ours"},
		{"webvm.", dns.TypeA, "not ours"},
		{"web.vm.example.", dns.TypeA, "not ours"},
		{".", dns.TypeNS, "not ours"},
		{"2.0.213.10.in-addr.arpa.", dns.TypePTR, "NOERROR web.vm."},
		{"2.0.213.10.in-addr.arpa.", dns.TypeA, "NOERROR"},
		{"3.0.213.10.in-addr.arpa.", dns.TypePTR, "NXDOMAIN"},
		{"2.0.214.10.in-addr.arpa.", dns.TypePTR, "not ours"},
		{"213.10.in-addr.arpa.", dns.TypePTR, "not ours"},
		{"999.0.213.10.in-addr.arpa.", dns.TypePTR, "not ours"},
	} {
		q := new(dns.Msg).SetQuestion(c.name, c.qtype)
		q.SetEdns0(1232, true)
		got := "not ours"
		if a := zone.answer(q); a != nil {
			got = dns.RcodeToString[a.Rcode]
			for _, rr := range a.Answer {
				got += " " + strings.TrimPrefix(rr.String(), rr.Header().String())
			}
			if a.Id != q.Id || !a.Response || len(a.Answer) == 0 && len(a.Ns) == 0 {
				t.Errorf("%s: %v", c.name, a)
			}
			if _, err := a.Pack(); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		if got != c.want {
			t.Errorf("%s %s: %s, want %s", c.name, dns.TypeToString[c.qtype], got, c.want)
		}
	}
}

// upstream is a resolver on a loopback address's port 53 where that can be had.
func upstream(t *testing.T, ip string, answer dns.HandlerFunc) {
	t.Helper()
	pc, err := net.ListenPacket("udp4", ip+":53")
	if err != nil {
		loud.Skip(t, "port 53 of %s cannot be had: %v", ip, err)
	}
	srv := &dns.Server{PacketConn: pc, Handler: answer}
	go func() { _ = srv.ActivateAndServe() }()
	t.Cleanup(func() { _ = srv.Shutdown() })
}

func says(text string) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		for a := range strings.FieldsSeq(text) {
			rr, err := dns.NewRR(fmt.Sprintf("%s 60 IN A %s", q.Question[0].Name, a))
			if err != nil {
				m.Rcode = dns.StringToRcode[a]
				continue
			}
			m.Answer = append(m.Answer, rr)
		}
		_ = w.WriteMsg(m)
	}
}

// start runs a server on a port of 127.0.0.1 with these lines as its resolv.conf.
func start(t *testing.T, resolvConf string) (*Server, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte(resolvConf), 0o600); err != nil {
		t.Fatal(err)
	}
	h := fake.New()
	addr := netip.MustParseAddrPort("10.213.0.1:53")
	s, err := Start(t.Context(), Options{Host: h, Address: addr, Zone: zone, ResolvConf: path, Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	at, _ := h.Listening(addr)
	return s, at.String()
}

func query(t *testing.T, server, name string) string {
	t.Helper()
	c := &dns.Client{Timeout: 10 * time.Second}
	m, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), server)
	if err != nil {
		t.Fatal(err)
	}
	out := dns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		out += " " + rr.(*dns.A).A.String()
	}
	return out
}

func TestForwarding(t *testing.T) {
	upstream(t, "127.213.0.1", says("SERVFAIL"))
	upstream(t, "127.213.0.2", says("203.0.113.1 10.213.0.2 203.0.113.2"))
	s, addr := start(t, "nameserver 10.213.0.1\nnameserver 127.213.0.1\nnameserver 127.213.0.2\n")
	// The first resolver is ourselves and is left out, the second fails; the third claims that a
	// name of its own is one of our guests.
	if got, want := query(t, addr, "example.org."), "NOERROR 203.0.113.1 203.0.113.2"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	// resolv.conf counts as it is now; without any resolver there is an answer all the same.
	for text, want := range map[string]string{"nameserver 127.213.0.1\n": "SERVFAIL", "": "SERVFAIL", "nameserver 127.213.0.2\n": "NOERROR 203.0.113.1 203.0.113.2"} {
		if err := os.WriteFile(s.o.ResolvConf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := query(t, addr, "example.org."); got != want {
			t.Errorf("with %q: %s, want %s", text, got, want)
		}
	}
	if got := query(t, addr, "new.vm."); got != "NXDOMAIN" {
		t.Error(got)
	}
	z := zone
	z.Names = map[string]netip.Addr{"new": netip.MustParseAddr("10.213.0.9")}
	s.SetZone(z)
	if got := query(t, addr, "new.vm."); got != "NOERROR 10.213.0.9" {
		t.Error(got)
	}
}

func TestOneGuestDoesNotTakeAll(t *testing.T) {
	c := clients{busy: map[netip.Addr]int{}}
	a, b := netip.MustParseAddr("10.213.0.2"), netip.MustParseAddr("10.213.0.3")
	for i := range questionsPerGuest {
		if !c.enter(a) {
			t.Fatalf("question %d is refused", i)
		}
	}
	if c.enter(a) {
		t.Error("one guest may ask without bound")
	}
	if !c.enter(b) {
		t.Error("another guest gets no answer")
	}
	c.leave(a)
	if !c.enter(a) {
		t.Error("a place given back is not free")
	}
}

func TestConnectionsPerGuest(t *testing.T) {
	s, _ := start(t, "")
	l := s.servers[1].Listener.Addr().String()
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for range connectionsPerGuest + 1 {
		c, err := net.Dial("tcp", l)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	last := open[connectionsPerGuest]
	_ = last.SetReadDeadline(time.Now().Add(time.Second))
	if _, err := last.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("one connection too many is kept: %v", err)
	}
	first := &dns.Conn{Conn: open[0]}
	if err := first.WriteMsg(new(dns.Msg).SetQuestion("web.vm.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	if m, err := first.ReadMsg(); err != nil || len(m.Answer) != 1 {
		t.Errorf("%v, %v", m, err)
	}
}

func TestCloseDoesNotWaitForResolvers(t *testing.T) {
	asked := make(chan struct{}, 1)
	upstream(t, "127.213.0.3", func(dns.ResponseWriter, *dns.Msg) { // never answers
		select {
		case asked <- struct{}{}:
		default:
		}
	})
	s, addr := start(t, "nameserver 127.213.0.3\n")
	go func() { _, _, _ = new(dns.Client).Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeA), addr) }()
	<-asked
	begin := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > askTime/2 {
		t.Errorf("closing took %s", took)
	}
	s.servers = nil // closed already
}

// FuzzServe: no bytes that a guest sends make the daemon fall over, and what it answers can be packed.
func FuzzServe(f *testing.F) {
	for _, name := range []string{"web.vm.", "2.0.213.10.in-addr.arpa.", "."} {
		b, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	s := &Server{o: Options{Log: discard(), ResolvConf: "/nonexistent"}, zone: zone, clients: clients{busy: map[netip.Addr]int{}}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	f.Fuzz(func(t *testing.T, b []byte) {
		q := new(dns.Msg)
		if q.Unpack(b) != nil {
			return
		}
		w := &answerTaker{}
		s.ServeDNS(w, q)
		if w.m == nil {
			t.Fatal("no answer")
		}
		if _, err := w.m.Pack(); err != nil && len(q.Question) == 1 {
			t.Fatalf("%v: %v", err, w.m)
		}
	})
}
