package network

import (
	"net/netip"
	"path/filepath"
	"testing"

	"banger/api"
	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/host/fake"
)

func fakeNetwork(t *testing.T, o Options) (*Network, *fake.Host) {
	h := fake.New()
	o.Host, o.Paths = h, config.Paths{State: t.TempDir()}
	if o.ResolvConf == "" {
		o.ResolvConf = filepath.Join(t.TempDir(), "none")
	}
	n := New(o)
	t.Cleanup(func() { _ = n.Close() })
	return n, h
}

func TestAllocateIP(t *testing.T) {
	addrs := func(s ...string) (out []netip.Addr) {
		for _, a := range s {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	route := func(dst, link string) host.Route {
		return host.Route{Destination: netip.MustParsePrefix(dst), Link: link}
	}
	for name, c := range map[string]struct {
		o      Options
		routes []host.Route
		taken  []netip.Addr
		want   string
		code   api.Code
	}{
		"first":            {want: "172.30.0.2"},
		"lowest free":      {taken: addrs("172.30.0.2", "172.30.0.4"), want: "172.30.0.3"},
		"of users":         {taken: addrs("10.0.2.15"), want: "172.30.0.2"},
		"routed elsewhere": {routes: []host.Route{route("172.16.0.0/12", "vpn0")}, want: "10.213.0.2"},
		"part is routed":   {routes: []host.Route{route("172.30.7.0/24", "br-1234")}, want: "10.213.0.2"},
		"our own route":    {routes: []host.Route{route("172.30.0.0/16", "banger0")}, want: "172.30.0.2"},
		"half a default":   {routes: []host.Route{route("128.0.0.0/1", "tun0")}, want: "172.30.0.2"},
		"as the others":    {routes: []host.Route{route("172.16.0.0/12", "vpn0")}, taken: addrs("172.30.0.2"), want: "172.30.0.3"},
		"configured":       {o: Options{Subnet: netip.MustParsePrefix("192.168.5.0/29"), SubnetFixed: true}, want: "192.168.5.2"},
		"full": {
			o:     Options{Subnet: netip.MustParsePrefix("192.168.5.0/29"), SubnetFixed: true},
			taken: addrs("192.168.5.2", "192.168.5.3", "192.168.5.4", "192.168.5.5", "192.168.5.6"), code: api.CodeExhausted,
		},
		"configured and routed": {
			o:      Options{Subnet: netip.MustParsePrefix("192.168.5.0/24"), SubnetFixed: true},
			routes: []host.Route{route("192.168.0.0/16", "eth0")}, code: api.CodeConflict,
		},
		"the resolver is there": {o: Options{ResolvConf: "testdata/resolv-172.30.conf"}, want: "10.213.0.2"},
	} {
		t.Run(name, func(t *testing.T) {
			n, h := fakeNetwork(t, c.o)
			h.HostRoutes = c.routes
			ip, err := n.AllocateIP(c.taken)
			if api.CodeOf(err) != c.code || (err == nil && ip.String() != c.want) {
				t.Errorf("%s, %v; want %s %s", ip, err, c.want, c.code)
			}
			if err != nil && api.AsError(err).Hint == "" {
				t.Error("no hint")
			}
		})
	}
}

func TestDerivedNames(t *testing.T) {
	if got := TapName("abcdefghijkl"); got != "bgr-abcdefgh" || len(got) > 15 {
		t.Errorf("tap %q", got)
	}
	a, b := MACFor("abcdefghijkl"), MACFor("abcdefghijkm")
	if a.String() != MACFor("abcdefghijkl").String() || a.String() == b.String() {
		t.Errorf("%s and %s", a, b)
	}
	if a[0]&3 != 2 {
		t.Errorf("%s is not a locally administered unicast address", a)
	}
}

func TestParseDNSAddress(t *testing.T) {
	for s, want := range map[string]string{
		"bridge": "invalid AddrPort", "": "invalid AddrPort", ":5300": "0.0.0.0:5300", "192.0.2.1": "192.0.2.1:53", "192.0.2.1:54": "192.0.2.1:54",
		"127.0.0.1": "error", "::1": "error", "here": "error", ":0": "error", "10.0.0.1:99999": "error",
	} {
		got := "error"
		if a, err := ParseDNSAddress(s); err == nil {
			got = a.String()
		} else if api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("%q: %v", s, err)
		}
		if got != want {
			t.Errorf("%q is %s, want %s", s, got, want)
		}
	}
}
