package network

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	idA = "aaaaaaaaaaaa"
	idB = "bbbbbbbbbbbb"
)

// pair attaches two guests and lets them onto the bridge.
func (w *world) pair(n *Network) (a, b *machine) {
	w.t.Helper()
	a = w.attach(n, idA)
	b = w.attach(n, idB, a.guest.IP)
	for _, m := range []*machine{a, b} {
		if err := n.Join(w.t.Context(), m.guest); err != nil {
			w.t.Fatal(err)
		}
	}
	return a, b
}

func TestGuestsReachTheDNSAndBeyondAndNothingElse(t *testing.T) {
	w := newWorld(t)
	before := w.footprint()
	everywhere, loopback := answer(t, "0.0.0.0:7000"), answer(t, "127.0.0.1:7001")
	var beyond *answering
	w.beyond.do(t, func() error { beyond = answer(t, "0.0.0.0:7002"); return nil })
	resolver(t, w.beyond, uplinkBeyond+":53", netip.MustParseAddr("203.0.113.7"))

	n := New(w.o)
	a, b := w.pair(n)
	gw := gateway(netip.MustParsePrefix("10.213.0.0/16")).String()
	var inB *answering
	b.do(t, func() error { inB = answer(t, "0.0.0.0:7003"); return nil })

	for _, network := range []string{"udp", "tcp"} {
		for _, q := range []struct {
			name  string
			qtype uint16
			want  string
			rcode int
		}{
			{"vm-bbbb.vm.", mdns.TypeA, b.guest.IP.String(), mdns.RcodeSuccess},
			{"VM-bbbb.VM.", mdns.TypeA, b.guest.IP.String(), mdns.RcodeSuccess},
			{"vm-bbbb.vm.", mdns.TypeAAAA, "", mdns.RcodeSuccess},
			{"nobody.vm.", mdns.TypeA, "", mdns.RcodeNameError},
			{"a.vm-bbbb.vm.", mdns.TypeA, "", mdns.RcodeNameError},
			{"3.0.213.10.in-addr.arpa.", mdns.TypePTR, "vm-bbbb.vm.", mdns.RcodeSuccess},
			{"9.0.213.10.in-addr.arpa.", mdns.TypePTR, "", mdns.RcodeNameError},
			{"example.org.", mdns.TypeA, "203.0.113.7", mdns.RcodeSuccess},
		} {
			a.do(t, func() error {
				m, err := ask(gw+":53", q.name, q.qtype, network)
				if err != nil {
					return err
				}
				var got string
				for _, rr := range m.Answer {
					got += strings.TrimPrefix(rr.String(), rr.Header().String())
				}
				if got != q.want || m.Rcode != q.rcode {
					t.Errorf("%s %s over %s: %q %s, want %q %s", q.name, mdns.TypeToString[q.qtype], network, got,
						mdns.RcodeToString[m.Rcode], q.want, mdns.RcodeToString[q.rcode])
				}
				return nil
			})
		}
	}

	a.do(t, func() error {
		return errors.Join(call(uplinkBeyond+":7002", patience), ping(uplinkBeyond+":7002", patience))
	})
	for _, from := range beyond.seen() {
		if !strings.HasPrefix(from, uplinkHost+":") {
			t.Errorf("beyond saw %s, want the host's own address", from)
		}
	}
	if len(beyond.seen()) != 2 {
		t.Errorf("beyond saw %q, want one TCP and one UDP", beyond.seen())
	}

	for _, addr := range []string{gw + ":7000", uplinkHost + ":7000", gw + ":7001", b.guest.IP.String() + ":7003", "169.254.169.254:80"} {
		for what, try := range map[string]func(string, time.Duration) error{"TCP": call, "UDP": ping} {
			if err := a.try(func() error { return try(addr, impatience) }); err == nil {
				t.Errorf("a guest reaches %s over %s", addr, what)
			}
		}
	}
	// By way of the host too: B's address, but the gateway's MAC.
	a.do(t, func() error { return addRoute(b.guest.IP.String()+"/32", gw) })
	if err := a.try(func() error { return call(b.guest.IP.String()+":7003", impatience) }); err == nil {
		t.Error("a guest reaches another through the host")
	}
	// 127.0.0.1 of the host, from a guest that has given up its own.
	a.do(t, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetDown(lo), os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0), addRoute("127.0.0.1/32", gw))
	})
	if err := a.try(func() error { return call("127.0.0.1:7001", impatience) }); err == nil {
		t.Error("a guest reaches the host's loopback")
	}
	for what, l := range map[string]*answering{"0.0.0.0 of the host": everywhere, "127.0.0.1 of the host": loopback, "the other guest": inB} {
		if got := l.seen(); len(got) != 0 {
			t.Errorf("%s was reached from %q", what, got)
		}
	}

	// The host reaches its guests, as ssh needs it; the network beyond does not.
	if err := call(b.guest.IP.String()+":7003", patience); err != nil {
		t.Errorf("the host does not reach a guest: %v", err)
	}
	w.beyond.do(t, func() error { return addRoute("10.213.0.0/16", uplinkHost) })
	if err := w.beyond.try(func() error { return call(b.guest.IP.String()+":7003", impatience) }); err == nil {
		t.Error("the network beyond reaches a guest")
	}
	if err := w.beyond.try(func() error { return ping(gw+":53", impatience) }); err == nil {
		t.Error("the network beyond reaches the guests' DNS")
	}

	for _, m := range []*machine{a, b} {
		if err := n.Detach(t.Context(), m.guest); err != nil {
			t.Fatal(err)
		}
	}
	if after := w.footprint(); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
}

// frames captures what arrives on a link of this namespace until the marker is seen.
type capture int

func newCapture(t *testing.T, link string) capture {
	t.Helper()
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		t.Fatal(err)
	}
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience.Seconds())}); err != nil {
		t.Fatal(err)
	}
	return capture(fd)
}

// until collects frames up to the one that holds marker.
func (c capture) until(t *testing.T, marker string) [][]byte {
	t.Helper()
	var out [][]byte
	for {
		buf := make([]byte, 4096)
		n, _, err := unix.Recvfrom(int(c), buf, 0)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("waiting for %q: %v", marker, err)
		}
		if bytes.Contains(buf[:n], []byte(marker)) {
			return out
		}
		out = append(out, buf[:n])
	}
}

func ether(dst, src net.HardwareAddr, kind []byte, payload ...[]byte) []byte {
	f := append(append(append([]byte{}, dst...), src...), kind...)
	for _, p := range payload {
		f = append(f, p...)
	}
	return append(f, make([]byte, max(0, 60-len(f)))...)
}

func datagram(src, dst netip.Addr, text string) []byte {
	udp := append([]byte{0x30, 0x39, 0x1b, 0x58, 0, byte(8 + len(text)), 0, 0}, text...)
	ip := append([]byte{0x45, 0, 0, byte(20 + len(udp)), 0, 1, 0, 0, 64, 17, 0, 0}, src.AsSlice()...)
	ip = append(ip, dst.AsSlice()...)
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(ip[i])<<8 | uint32(ip[i+1])
	}
	sum = ^(sum>>16 + sum&0xffff)
	ip[10], ip[11] = byte(sum>>8), byte(sum)
	return append(ip, udp...)
}

func arp(mac net.HardwareAddr, ip, target netip.Addr) []byte {
	p := append([]byte{0, 1, 8, 0, 6, 4, 0, 2}, mac...)
	p = append(append(p, ip.AsSlice()...), make([]byte, 6)...)
	return append(p, target.AsSlice()...)
}

var (
	kindIP, kindARP = []byte{8, 0}, []byte{8, 6}
	broadcast       = net.HardwareAddr{255, 255, 255, 255, 255, 255}
)

func TestForgedFramesArriveNowhere(t *testing.T) {
	w := newWorld(t)
	n := New(w.o)
	a, b := w.pair(n)
	gw := gateway(netip.MustParsePrefix("10.213.0.0/16"))
	bridge := bridgeAddress(t)
	macA, macB, stranger := MACFor(idA), MACFor(idB), net.HardwareAddr{2, 0, 0, 0xba, 0xd0, 1}

	forged := map[string][]byte{
		"a stranger's MAC":        ether(bridge, stranger, kindIP, datagram(a.guest.IP, gw, "forged")),
		"the other's MAC":         ether(bridge, macB, kindIP, datagram(a.guest.IP, gw, "forged")),
		"the gateway's MAC":       ether(broadcast, bridge, kindIP, datagram(a.guest.IP, gw, "forged")),
		"the other's address":     ether(bridge, macA, kindIP, datagram(b.guest.IP, gw, "forged")),
		"an address outside":      ether(bridge, macA, kindIP, datagram(netip.MustParseAddr("192.0.2.77"), gw, "forged")),
		"ARP for the gateway":     ether(broadcast, macA, kindARP, arp(macA, gw, b.guest.IP), []byte("forged")),
		"ARP for the other":       ether(bridge, macA, kindARP, arp(macA, b.guest.IP, gw), []byte("forged")),
		"ARP with another MAC":    ether(bridge, macA, kindARP, arp(stranger, a.guest.IP, gw), []byte("forged")),
		"a group address":         ether(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0xe}, stranger, []byte{0x88, 0xcc}, []byte("forged")),
		"spanning tree":           ether(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, stranger, []byte{0, 38}, []byte("forged")),
		"IPv6":                    ether(bridge, macA, []byte{0x86, 0xdd}, []byte("forged")),
		"a VLAN":                  ether(bridge, macA, []byte{0x81, 0, 0, 1, 8, 0}, datagram(a.guest.IP, gw, "forged")),
		"a VLAN to the other":     ether(macB, macA, []byte{0x81, 0, 0, 0, 8, 0}, datagram(a.guest.IP, b.guest.IP, "forged")),
		"a frame to the other":    ether(macB, macA, kindIP, datagram(a.guest.IP, b.guest.IP, "forged to the other")),
		"a broadcast to everyone": ether(broadcast, macA, kindIP, datagram(a.guest.IP, netip.MustParseAddr("255.255.255.255"), "a broadcast")),
	}
	onBridge, onUplink := newCapture(t, DefaultBridge), newCapture(t, "up0")
	var inB capture
	b.do(t, func() error { inB = newCapture(t, "eth0"); return nil })
	for what, f := range forged {
		if _, err := a.wire.Write(f); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	// What is sent after them, by A to the bridge and onwards and by the host to B, comes after them.
	_, err := a.wire.Write(ether(bridge, macA, kindIP, datagram(a.guest.IP, netip.MustParseAddr(uplinkBeyond), "genuine")))
	if err != nil {
		t.Fatal(err)
	}
	seen := onBridge.until(t, "genuine")
	seen = append(seen, onUplink.until(t, "genuine")...)
	_ = ping(b.guest.IP.String()+":9", time.Millisecond)
	for _, f := range append(seen, inB.until(t, "anybody there")...) {
		if bytes.Contains(f, []byte("forged")) || bytes.HasPrefix(f[6:], stranger) {
			t.Errorf("a forged frame arrived: %x", f)
		}
	}
	for _, m := range stations(t) {
		if m == stranger.String() {
			t.Errorf("the bridge has learnt the forged %s", m)
		}
	}
}

func bridgeAddress(t *testing.T) net.HardwareAddr {
	t.Helper()
	l, err := netlink.LinkByName(DefaultBridge)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().HardwareAddr
}

// stations are the addresses that the bridge knows.
func stations(t *testing.T) (out []string) {
	t.Helper()
	all, err := netlink.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		out = append(out, n.HardwareAddr.String())
	}
	return out
}

// TestForgedFramesWouldArrive holds the test above to account: with the pins away they do arrive.
func TestForgedFramesWouldArrive(t *testing.T) {
	w := newWorld(t)
	n := New(w.o)
	a, _ := w.pair(n)
	if err := nft(t.Context(), noRules); err != nil {
		t.Fatal(err)
	}
	onBridge := newCapture(t, DefaultBridge)
	gw := gateway(netip.MustParsePrefix("10.213.0.0/16"))
	f := ether(bridgeAddress(t), net.HardwareAddr{2, 0, 0, 0xba, 0xd0, 1}, kindIP, datagram(a.guest.IP, gw, "forged"))
	if _, err := a.wire.Write(f); err != nil {
		t.Fatal(err)
	}
	onBridge.until(t, "forged") // fails when it does not come
}

func TestBeforeJoinNothingPasses(t *testing.T) {
	w := newWorld(t)
	n := New(w.o)
	everywhere := answer(t, "0.0.0.0:7000")
	a := w.attach(n, idA)
	gw := gateway(netip.MustParsePrefix("10.213.0.0/16")).String()
	tap, err := net.InterfaceByName(a.guest.tap())
	if err != nil {
		t.Fatal(err)
	}
	// Not even with the tap's own address as the destination, which the host's IP layer would take.
	for _, dst := range []string{gw, uplinkHost} {
		f := ether(tap.HardwareAddr, MACFor(idA), kindIP, datagram(a.guest.IP, netip.MustParseAddr(dst), "early"))
		if _, err := a.wire.Write(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.try(func() error { return call(uplinkHost+":7000", impatience) }); err == nil {
		t.Error("a guest that has not joined reaches the host")
	}
	if got := everywhere.seen(); len(got) != 0 {
		t.Errorf("the host was reached from %q", got)
	}
	if err := n.Join(t.Context(), a.guest); err != nil {
		t.Fatal(err)
	}
	a.do(t, func() error { _, err := ask(gw+":53", "vm-aaaa.vm.", mdns.TypeA, "udp"); return err })
}

func TestForwardingIsForGuestsOnly(t *testing.T) {
	w := newWorld(t)
	lan := newSpace(t)
	cable(t, "lan0", "203.0.113.1/24", lan, "203.0.113.2/24")
	lan.do(t, func() error { return addRoute("", "203.0.113.1") })
	w.beyond.do(t, func() error { answer(t, "0.0.0.0:7002"); return addRoute("203.0.113.0/24", uplinkHost) })

	n := New(w.o)
	a := w.attach(n, idA)
	if err := lan.try(func() error { return call(uplinkBeyond+":7002", impatience) }); err == nil {
		t.Error("the host forwards for others since banger has turned forwarding on")
	}
	// Somebody comes who forwards: from then on it is for them to say.
	docker := "table ip docker {\n chain forward {\n type filter hook forward priority 0; policy accept;\n }\n}\n"
	if err := nft(t.Context(), docker); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nft(context.Background(), "delete table ip docker\n") })
	if err := n.Set(t.Context(), []Guest{a.guest}); err != nil {
		t.Fatal(err)
	}
	lan.do(t, func() error { return call(uplinkBeyond+":7002", patience) })
	if err := n.Detach(t.Context(), a.guest); err != nil {
		t.Fatal(err)
	}
	if v, _ := w.host.Sysctl(ipForward); v != "1" {
		t.Errorf("ip_forward is %s, but somebody else relies on it", v)
	}
}

func TestForwardingThatWasOnStaysOn(t *testing.T) {
	w := newWorld(t)
	if err := w.host.SetSysctl(ipForward, "1"); err != nil {
		t.Fatal(err)
	}
	n := New(w.o)
	a := w.attach(n, idA)
	if rules, _ := w.host.Rules(t.Context()); strings.Contains(rules, "oifname != \"banger0\" drop") {
		t.Errorf("forwarding of others is dropped though the host did that before:\n%s", rules)
	}
	if err := n.Detach(t.Context(), a.guest); err != nil {
		t.Fatal(err)
	}
	if v, _ := w.host.Sysctl(ipForward); v != "1" {
		t.Errorf("ip_forward was 1 before banger and is %s now", v)
	}
}

// TestWhatTheHostOnlyForwards: services that are not the host's own sockets and still are none of a guest's business.
func TestWhatTheHostOnlyForwards(t *testing.T) {
	w := newWorld(t)
	var metadata, published *answering
	w.beyond.do(t, func() error {
		if err := up("eth0", "169.254.169.254/32"); err != nil {
			return err
		}
		metadata, published = answer(t, "169.254.169.254:80"), answer(t, uplinkBeyond+":7002")
		return nil
	})
	const nat = "table ip publish {\n chain pre {\n type nat hook prerouting priority dstnat; policy accept;\n" +
		"  ip daddr " + uplinkHost + " tcp dport 8080 dnat to " + uplinkBeyond + ":7002\n }\n}\n"
	if err := errors.Join(addRoute("169.254.0.0/16", uplinkBeyond), nft(t.Context(), nat)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nft(context.Background(), "delete table ip publish\n") })
	n := New(w.o)
	a, _ := w.pair(n)
	for _, addr := range []string{"169.254.169.254:80", uplinkHost + ":8080"} {
		if err := a.try(func() error { return call(addr, impatience) }); err == nil {
			t.Errorf("a guest reaches %s", addr)
		}
	}
	if got := append(metadata.seen(), published.seen()...); len(got) != 0 {
		t.Errorf("reached from %q", got)
	}
	// They are there: without our rules they answer.
	if err := call("169.254.169.254:80", patience); err != nil {
		t.Error(err)
	}
	rest := "table ip nat2 {\n chain post {\n type nat hook postrouting priority srcnat; policy accept;\n oifname up0 masquerade\n }\n}\n"
	if err := nft(t.Context(), noRules+rest); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nft(context.Background(), "delete table ip nat2\n") })
	a.do(t, func() error { return call(uplinkHost+":8080", patience) })
}

func TestSegmentsFitTheUplink(t *testing.T) {
	w := newWorld(t)
	w.beyond.do(t, func() error { answer(t, "0.0.0.0:7002"); return nil })
	n := New(w.o)
	a, _ := w.pair(n)
	uplink, err := netlink.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	// As when the way out changes to a VPN while guests run.
	if err := netlink.LinkSetMTU(uplink, 1300); err != nil {
		t.Fatal(err)
	}
	seen := newCapture(t, "up0")
	a.do(t, func() error { return call(uplinkBeyond+":7002", patience) })
	const mss = "\x02\x04"
	for _, f := range seen.until(t, "hello") {
		if i := bytes.Index(f, []byte(mss)); i > 50 && f[47]&0x12 == 2 { // SYN
			if got := int(f[i+2])<<8 | int(f[i+3]); got != 1300-40 {
				t.Errorf("segments of %d bytes are announced", got)
			}
			return
		}
	}
	t.Error("no SYN was seen")
}
