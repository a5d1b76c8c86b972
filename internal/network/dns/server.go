// Package dns answers NAME.vm for the guests on banger's bridge, on the bridge's address only,
// and asks the host's own resolvers everything else. It owns that one socket pair. Only network imports it.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"banger/api"
	"banger/internal/host"
)

// Options is what a Server works with.
type Options struct {
	Host host.Networks
	// Address is where it listens, UDP and TCP.
	Address netip.AddrPort
	Zone    Zone
	// ResolvConf names the file that lists the host's resolvers.
	ResolvConf string
	Log        *slog.Logger
}

// Server is a running DNS server.
type Server struct {
	o       Options
	servers []*dns.Server
	ctx     context.Context // ends with Close, and the forwarded questions with it
	cancel  context.CancelFunc
	done    sync.WaitGroup
	clients clients

	mu   sync.Mutex // protects zone
	zone Zone
}

// Start returns when the server listens. An address that another program has is CodeConflict.
func Start(ctx context.Context, o Options) (*Server, error) {
	pc, err := o.Host.ListenUDP(ctx, o.Address)
	if err != nil {
		return nil, listenError(o.Address, err)
	}
	ln, err := o.Host.ListenTCP(ctx, o.Address)
	if err != nil {
		_ = pc.Close()
		return nil, listenError(o.Address, err)
	}
	s := &Server{o: o, zone: o.Zone, clients: clients{busy: map[netip.Addr]int{}}}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	started := make(chan struct{}, 2)
	note := func() { started <- struct{}{} }
	s.servers = []*dns.Server{
		{PacketConn: pc, Handler: s, NotifyStartedFunc: note, UDPSize: dns.DefaultMsgSize},
		{Listener: &fewPerGuest{Listener: ln}, Handler: s, NotifyStartedFunc: note, ReadTimeout: 2 * time.Second, IdleTimeout: idle},
	}
	for _, srv := range s.servers {
		s.done.Go(func() {
			if err := srv.ActivateAndServe(); err != nil && s.ctx.Err() == nil {
				o.Log.Error("the DNS has ended", "address", o.Address, "error", err)
			}
		})
	}
	for range s.servers {
		<-started
	}
	return s, nil
}

// idle is how long a TCP client may keep its connection without a question.
func idle() time.Duration { return 5 * time.Second }

func listenError(addr netip.AddrPort, err error) error {
	const key = "set dns_address = \":5300\" in config.toml; guests go on asking port 53"
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return api.Errorf(api.CodeConflict, "another program already answers DNS on %s: %w", addr, err).WithHint(key)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return api.Errorf(api.CodeInvalid, "dns_address %s is no address of this host: %w", addr, err).WithHint(key)
	}
	return fmt.Errorf("cannot listen for DNS on %s: %w", addr, err)
}

// Address is where guests are answered.
func (s *Server) Address() netip.AddrPort { return s.o.Address }

// SetZone changes what is answered from now on.
func (s *Server) SetZone(z Zone) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone = z
}

// Close ends it and gives the sockets back.
func (s *Server) Close() error {
	s.cancel()
	var errs []error
	for _, srv := range s.servers {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		errs = append(errs, srv.ShutdownContext(ctx))
		cancel()
	}
	s.done.Wait()
	return errors.Join(errs...)
}

// ServeDNS answers one question.
func (s *Server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	s.mu.Lock()
	zone := s.zone
	s.mu.Unlock()
	from := remote(w)
	if !zone.Subnet.Contains(from) && !from.IsLoopback() {
		return // somebody beyond the bridge; we are not a resolver for the world
	}
	a := s.answer(w, q, zone, from)
	if err := w.WriteMsg(a); err != nil {
		s.o.Log.Debug("cannot answer", "client", from, "error", err)
	}
}

func (s *Server) answer(w dns.ResponseWriter, q *dns.Msg, zone Zone, from netip.Addr) *dns.Msg {
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 || q.Question[0].Qclass != dns.ClassINET {
		return new(dns.Msg).SetRcode(q, dns.RcodeNotImplemented)
	}
	if a := zone.answer(q); a != nil {
		return a
	}
	if !s.clients.enter(from) {
		return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	}
	defer s.clients.leave(from)
	_, tcp := w.RemoteAddr().(*net.TCPAddr)
	return s.forward(q, zone, tcp)
}

func remote(w dns.ResponseWriter) netip.Addr {
	ap, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
