package network

import (
	"context"
	"net/netip"
	"os"

	"banger/internal/host"
)

// resolvedSocket is there while systemd-resolved runs.
const resolvedSocket = "/run/systemd/resolve/io.systemd.Resolve"

// routeNames tells systemd-resolved, where it runs, to ask our DNS for NAME.vm and nothing else. It
// forgets that by itself when the bridge goes. Without it the network is as good, so failures
// are only logged.
func (n *Network) routeNames(ctx context.Context, gateway netip.Addr) {
	if _, err := os.Stat(resolvedSocket); err != nil {
		return
	}
	dns := n.dns.Address()
	server := gateway.String()
	if dns.Port() != 53 || dns.Addr() != gateway {
		server = dns.String()
	}
	for _, args := range [][]string{
		{"dns", n.o.Bridge, server},
		{"domain", n.o.Bridge, "~vm"},
		{"default-route", n.o.Bridge, "false"},
		{"llmnr", n.o.Bridge, "no"},
		{"mdns", n.o.Bridge, "no"},
	} {
		if err := n.o.Host.Run(ctx, host.Command{Path: "resolvectl", Args: args}); err != nil {
			n.o.Log.Warn("systemd-resolved does not take our names", "error", err)
			return
		}
	}
}
