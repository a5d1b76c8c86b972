package network

import (
	"context"
	"net/netip"
	"os"
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
	if err := n.o.Host.RouteNames(ctx, n.o.Bridge, server, "vm"); err != nil {
		n.o.Log.Warn("systemd-resolved does not take our names", "error", err)
	}
}
