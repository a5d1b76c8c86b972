package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"banger/api"
	"banger/internal/host"
)

// TestDaemonThatDied: a new Network knows nothing, and finds what the old one left.
func TestDaemonThatDied(t *testing.T) {
	w := newWorld(t)
	before := w.footprint()
	old := New(w.o)
	a, b := w.pair(old)
	running := w.footprint()

	// A runs on, B's VMM has died with the daemon.
	if err := b.wire.Close(); err != nil {
		t.Fatal(err)
	}
	n := w.next(old)
	if err := n.Set(t.Context(), []Guest{a.guest}); err != nil {
		t.Fatal(err)
	}
	if _, err := net.InterfaceByName(b.guest.tap()); err == nil {
		t.Error("a tap that nobody wants is still there")
	}
	if _, err := net.InterfaceByName(a.guest.tap()); err != nil {
		t.Errorf("the running guest's tap: %v", err)
	}
	gw := gateway(netip.MustParsePrefix("10.213.0.0/16")).String()
	a.do(t, func() error {
		m, err := ask(gw+":53", "vm-aaaa.vm.", mdns.TypeA, "udp")
		if err == nil && len(m.Answer) != 1 {
			t.Errorf("the adopted guest is not named: %v", m)
		}
		return err
	})

	// Twice the same: no change.
	once := w.footprint()
	if err := n.Set(t.Context(), []Guest{a.guest}); err != nil {
		t.Fatal(err)
	}
	if twice := w.footprint(); twice != once {
		t.Errorf("the second Set changed\n%s\nto\n%s", once, twice)
	}
	// A list made before B was deleted does no harm, and neither does deleting twice.
	if err := n.Set(t.Context(), []Guest{a.guest, b.guest}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := errors.Join(n.Detach(t.Context(), b.guest), n.Detach(t.Context(), a.guest)); err != nil {
			t.Fatal(err)
		}
	}
	if after := w.footprint(); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s\nrunning:\n%s", after, before, running)
	}
}

// TestNothingIsRemembered: even the names are not known, only that nobody runs.
func TestNothingIsRemembered(t *testing.T) {
	w := newWorld(t)
	before := w.footprint()
	old := New(w.o)
	a, b := w.pair(old)
	_, _ = a.wire.Close(), b.wire.Close()
	if err := w.next(old).Set(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if after := w.footprint(); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
}

// TestRejoin: somebody restarted the host's networking, and the bridge was gone.
func TestRejoin(t *testing.T) {
	w := newWorld(t)
	n := New(w.o)
	a, _ := w.pair(n)
	if err := w.host.DeleteLink(t.Context(), DefaultBridge); err != nil {
		t.Fatal(err)
	}
	n = w.next(n)
	a.guest.Joined = true
	if err := n.Set(t.Context(), []Guest{a.guest}); err != nil {
		t.Fatal(err)
	}
	gw := gateway(netip.MustParsePrefix("10.213.0.0/16")).String()
	a.do(t, func() error { _, err := ask(gw+":53", "vm-aaaa.vm.", mdns.TypeA, "udp"); return err })
}

func TestTwoBridgesSideBySide(t *testing.T) {
	w := newWorld(t)
	n := New(w.o)
	a := w.attach(n, idA)
	w.o.Bridge = "banger1"
	second := New(w.o)
	if err := second.Set(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := net.InterfaceByName(a.guest.tap()); err != nil {
		t.Errorf("another daemon removed our tap: %v", err)
	}
	b := w.attach(second, idB)
	if b.guest.IP == a.guest.IP {
		t.Errorf("both have %s", a.guest.IP)
	}
	for _, m := range []struct {
		*machine
		n *Network
	}{{a, n}, {b, second}} {
		if err := m.n.Join(t.Context(), m.guest); err != nil {
			t.Fatal(err)
		}
		m.do(t, func() error {
			_, err := ask(m.n.GuestConfig(m.guest).Gateway+":53", m.guest.Name+".vm.", mdns.TypeA, "udp")
			return err
		})
	}
}

func TestDNSPortThatIsTaken(t *testing.T) {
	w := newWorld(t)
	before := w.footprint()
	taken := answer(t, "0.0.0.0:53")
	n := New(w.o)
	ip, err := n.AllocateIP(nil)
	if err != nil {
		t.Fatal(err)
	}
	g := Guest{ID: idA, Name: "a", Kind: api.NetBridge, MAC: MACFor(idA).String(), IP: ip}
	_, err = n.Attach(t.Context(), g, nil)
	if e := api.AsError(err); api.CodeOf(err) != api.CodeConflict || !strings.Contains(e.Hint, "dns_address") || !strings.Contains(e.Message, ":53") {
		t.Errorf("error %v (%s), hint %q", err, api.CodeOf(err), api.AsError(err).Hint)
	}
	if after := w.footprint(); after != before {
		t.Errorf("left behind by a failed Attach:\n%s\nbefore:\n%s", after, before)
	}
	// As the hint says.
	if w.o.DNSAddress, err = ParseDNSAddress(":5300"); err != nil {
		t.Fatal(err)
	}
	n = New(w.o)
	a := w.attach(n, idA)
	if err := n.Join(t.Context(), a.guest); err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"udp", "tcp"} {
		a.do(t, func() error {
			_, err := ask(gateway(n.subnet()).String()+":53", "vm-aaaa.vm.", mdns.TypeA, network)
			return err
		})
	}
	if got := taken.seen(); len(got) != 0 {
		t.Errorf("the other server was asked by %q", got)
	}
}

func TestDevicesOfOthersAreLeftAlone(t *testing.T) {
	w := newWorld(t)
	other := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: DefaultBridge}}
	if err := netlink.LinkAdd(other); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(other) })
	n := New(w.o)
	ip, _ := n.AllocateIP(nil)
	g := Guest{ID: idA, Name: "a", Kind: api.NetBridge, MAC: MACFor(idA).String(), IP: ip}
	if _, err := n.Attach(t.Context(), g, nil); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("error %v, want a conflict", err)
	}
	if _, err := netlink.LinkByName(DefaultBridge); err != nil {
		t.Errorf("another's bridge is gone: %v", err)
	}
	if err := w.host.DeleteLink(t.Context(), "up0"); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("deleting another's link: %v", err)
	}
}

func TestTapInUse(t *testing.T) {
	w := newWorld(t)
	n := New(w.o)
	a := w.attach(n, idA)
	if _, err := w.host.OpenTap(t.Context(), host.Tap{Name: a.guest.tap(), Bridge: DefaultBridge, MTU: 1500}); api.CodeOf(err) != api.CodeBusy {
		t.Errorf("opening a tap twice: %v", err)
	}
}

func TestRecordOfAnotherBoot(t *testing.T) {
	w := newWorld(t)
	if err := os.WriteFile(w.o.Paths.ForwardRecord(), []byte(`{"boot_id":"another","ip_forward":"0"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.host.SetSysctl(ipForward, "1"); err != nil { // by somebody else, since this boot
		t.Fatal(err)
	}
	if err := New(w.o).Set(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if v, _ := w.host.Sysctl(ipForward); v != "1" {
		t.Errorf("ip_forward is %s by a record of another boot", v)
	}
}

// TestAnonymousTapStays: the build of a template goes on while the last guest on the bridge goes, and its Firecracker's tap is still there.
func TestAnonymousTapStays(t *testing.T) {
	needsRoot(t)
	w := newWorld(t)
	n := New(w.o)
	builder := Guest{ID: idB, Kind: api.NetBridge, MAC: MACFor(idB).String()}
	alone, err := n.AttachAnonymous(t.Context(), builder)
	if err != nil {
		t.Fatal(err)
	}
	a := Guest{ID: idA, Name: "a", Kind: api.NetBridge, MAC: MACFor(idA).String(), IP: netip.MustParseAddr("10.213.0.2")}
	link, err := n.Attach(t.Context(), a, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(alone.Close(), link.Close(), n.Detach(t.Context(), a), n.Set(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := net.InterfaceByName(builder.tap()); err != nil {
		t.Error(err)
	}
	if err := n.Detach(t.Context(), builder); err != nil {
		t.Fatal(err)
	}
	if _, err := net.InterfaceByName(builder.tap()); err == nil {
		t.Error("the tap is left")
	}
}

// TestLinger: what was made for the last guest stays a while for the next one, but its own part goes at once.
func TestLinger(t *testing.T) {
	needsRoot(t)
	w := newWorld(t)
	w.o.Linger = time.Hour
	n := New(w.o)
	a := Guest{ID: idA, Name: "a", Kind: api.NetBridge, MAC: MACFor(idA).String(), IP: netip.MustParseAddr("10.213.0.2")}
	rules := func() string {
		text, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
		if err != nil {
			t.Fatal(err, string(text))
		}
		return string(text)
	}
	for range 2 { // the second finds a bridge
		link, err := n.Attach(t.Context(), a, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(rules(), a.MAC) {
			t.Error("the guest is not pinned")
		}
		if err := errors.Join(link.Close(), n.Join(t.Context(), a), n.Detach(t.Context(), a)); err != nil {
			t.Fatal(err)
		}
		if text := rules(); strings.Contains(text, a.MAC) || !strings.Contains(text, "table inet banger") {
			t.Errorf("the rules are %s", text)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if text := rules(); strings.Contains(text, "banger") {
		t.Errorf("a daemon that ends leaves %s", text)
	}
	n = New(w.o)
	n.o.Linger = time.Millisecond
	link, err := n.Attach(t.Context(), a, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(link.Close(), n.Detach(t.Context(), a)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); strings.Contains(rules(), "banger"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it lingers: %s", rules())
		}
	}
}
