package network

import (
	"context"
	"errors"
	"net/netip"

	"banger/internal/host"
	"banger/internal/network/dns"
)

// apply makes the host as n.guests wants it; called with the lock held. Acquired in the
// order rules, bridge, forwarding, DNS; given back in the reverse order.
func (n *Network) apply(ctx context.Context) error {
	if len(n.guests) == 0 {
		return n.teardown(ctx)
	}
	subnet := n.subnet()
	forward, err := n.planForwarding(ctx)
	if err != nil {
		return err
	}
	rules := ruleset{
		table: n.table(), bridge: n.o.Bridge, subnet: subnet, gateway: gateway(subnet), dns: n.dnsAddress(subnet), closed: forward.close,
	}
	for _, g := range n.guests {
		rules.guests = append(rules.guests, g)
	}
	if err := n.o.Host.ApplyRules(ctx, rules.String()); err != nil {
		return err
	}
	bridge := host.Bridge{Name: n.o.Bridge, Address: netip.PrefixFrom(gateway(subnet), subnet.Bits()), MTU: n.o.Host.UplinkMTU()}
	if err := n.o.Host.EnsureBridge(ctx, bridge); err != nil {
		return err
	}
	if err := n.o.Host.SetSysctl(ipForward, "1"); err != nil {
		return err
	}
	return n.startDNS(ctx, subnet)
}

// teardown leaves nothing of ours on the host, whoever put it there. Every step runs.
func (n *Network) teardown(ctx context.Context) error {
	errs := []error{n.stopDNS()}
	taps, err := n.o.Host.Taps(n.o.Bridge)
	errs = append(errs, err)
	for _, tap := range taps {
		errs = append(errs, n.o.Host.DeleteLink(ctx, tap))
	}
	errs = append(errs, n.restoreForwarding(ctx), n.o.Host.DeleteLink(ctx, n.o.Bridge), n.o.Host.ApplyRules(ctx, removeRules(n.table())))
	return errors.Join(errs...)
}

// zone is the names of all guests that have one.
func (n *Network) zone(subnet netip.Prefix) dns.Zone {
	zone := dns.Zone{Subnet: subnet, Gateway: gateway(subnet), Names: map[string]netip.Addr{}}
	for _, g := range n.guests {
		if g.Name != "" {
			zone.Names[g.Name] = g.IP
		}
	}
	return zone
}

// startDNS starts the DNS, or tells the running one what has changed.
func (n *Network) startDNS(ctx context.Context, subnet netip.Prefix) error {
	zone := n.zone(subnet)
	addr := n.dnsAddress(subnet)
	if n.dns != nil && n.dns.Address() == addr {
		n.dns.SetZone(zone)
		return nil
	}
	if err := n.stopDNS(); err != nil {
		return err
	}
	server, err := dns.Start(ctx, dns.Options{Host: n.o.Host, Address: addr, Zone: zone, ResolvConf: n.o.ResolvConf, Log: n.o.Log})
	if err != nil {
		return err
	}
	n.dns = server
	n.routeNames(ctx, gateway(subnet))
	return nil
}

func (n *Network) stopDNS() error {
	if n.dns == nil {
		return nil
	}
	err := n.dns.Close()
	n.dns = nil
	return err
}
