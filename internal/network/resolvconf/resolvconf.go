// Package resolvconf reads which resolvers the host uses. Only network and what lies below it import it.
package resolvconf

import (
	"net/netip"
	"os"
	"strings"
)

// Read lists the resolvers of a resolv.conf(5) in their order; none if it cannot be read.
// Whoever asks them reads it each time, so that a VPN's resolvers count from the moment they are there.
func Read(path string) []netip.Addr {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return Parse(string(text))
}

// Parse does that for the file's text.
func Parse(text string) []netip.Addr {
	var out []netip.Addr
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}
