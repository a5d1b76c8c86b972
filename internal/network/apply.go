package network

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"banger/internal/host"
	"banger/internal/network/dns"
)

// apply makes the host as n.guests wants it; called with the lock held. Acquired in the
// order rules, bridge, forwarding, DNS; given back in the reverse order.
func (n *Network) apply(ctx context.Context) error {
	if len(n.guests) == 0 {
		return n.teardown(ctx)
	}
	n.stopIdling()
	subnet := n.subnet()
	fresh := time.Since(n.checked) < checkEvery && n.subnetMade == subnet
	if !fresh {
		var err error
		if n.planned, err = n.planForwarding(ctx); err != nil {
			return err
		}
	}
	if err := n.applyRules(ctx, subnet); err != nil {
		return err
	}
	if fresh {
		return n.startDNS(ctx, subnet)
	}
	bridge := host.Bridge{Name: n.o.Bridge, Address: netip.PrefixFrom(gateway(subnet), subnet.Bits()), MTU: n.o.Host.UplinkMTU()}
	if err := n.o.Host.EnsureBridge(ctx, bridge); err != nil {
		return err
	}
	if err := n.o.Host.SetSysctl(ipForward, "1"); err != nil {
		return err
	}
	if err := n.startDNS(ctx, subnet); err != nil {
		return err
	}
	n.checked, n.subnetMade = time.Now(), subnet
	return nil
}

// checkEvery is how long the bridge and the host's forwarding are taken to be as they were left: looking at them costs
// more than all that a guest needs.
const checkEvery = 5 * time.Second

func (n *Network) applyRules(ctx context.Context, subnet netip.Prefix) error {
	rules := host.Rules{Bridge: n.o.Bridge, Subnet: subnet, DNS: n.dnsAddress(subnet), Closed: n.planned.close}
	for _, g := range n.guests {
		rules.Guests = append(rules.Guests, g.pin())
	}
	return n.o.Host.ApplyRules(ctx, rules)
}

// linger takes the last guest's part away, and leaves the rest for a while: making and removing a bridge takes the
// host as long as much of a thaw.
func (n *Network) linger(ctx context.Context) error {
	n.stopIdling()
	if err := n.applyRules(ctx, n.subnetMade); err != nil {
		return err
	}
	if err := n.startDNS(ctx, n.subnetMade); err != nil {
		return err
	}
	n.idle = time.AfterFunc(n.o.Linger, n.idled)
	return nil
}

// idled ends the lingering, unless there is a guest again.
func (n *Network) idled() {
	ctx := context.Background()
	unlock, err := n.hold(ctx)
	if err != nil {
		return
	}
	defer unlock()
	if n.idle == nil || len(n.guests) > 0 {
		return
	}
	if err := n.teardown(ctx); err != nil {
		n.o.Log.Error("cannot take the network away", "error", err)
	}
}

func (n *Network) stopIdling() {
	if n.idle != nil {
		n.idle.Stop()
		n.idle = nil
	}
}

// teardown leaves nothing of ours on the host, whoever put it there, but for the taps of guests that are on no bridge. Every step runs.
func (n *Network) teardown(ctx context.Context) error {
	n.stopIdling()
	n.checked = time.Time{}
	errs := []error{n.stopDNS()}
	taps, err := n.o.Host.Taps(n.o.Bridge)
	errs = append(errs, err, n.deleteTaps(ctx, taps, nil))
	errs = append(errs, n.restoreForwarding(ctx), n.o.Host.DeleteLink(ctx, n.o.Bridge), n.o.Host.ApplyRules(ctx, host.Rules{Bridge: n.o.Bridge, Remove: true}))
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
