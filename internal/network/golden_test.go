package network

import (
	"context"
	"errors"
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
	"banger/internal/host"
	"banger/internal/host/fake"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test ./internal/network -update writes it)", err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./internal/network -update writes it anew); got:\n%s", path, got)
	}
}

func twoGuests() []Guest {
	return []Guest{
		{ID: idB, Name: "b", Kind: api.NetBridge, MAC: MACFor(idB).String(), IP: netip.MustParseAddr("10.213.0.3")},
		{ID: idA, Name: "a", Kind: api.NetBridge, MAC: MACFor(idA).String(), IP: netip.MustParseAddr("10.213.0.2")},
	}
}

func twoPins() []host.Pin {
	var pins []host.Pin
	for _, g := range twoGuests() {
		pins = append(pins, g.pin())
	}
	return pins
}

func TestRulesText(t *testing.T) {
	subnet := netip.MustParsePrefix("10.213.0.0/16")
	r := host.Rules{Bridge: "banger0", Subnet: subnet, DNS: netip.AddrPortFrom(gateway(subnet), 53), Guests: twoPins()}
	golden(t, "rules.nft", r.Text())
	r.Closed, r.DNS, r.Bridge = true, netip.AddrPortFrom(gateway(subnet), 5300), "other"
	golden(t, "rules-closed-port.nft", r.Text())
}

// TestRulesAreAllOrNothing: the filter takes our text, both times; a mistake leaves the rules as they are.
func TestRulesAreAllOrNothing(t *testing.T) {
	w := newWorld(t)
	subnet := netip.MustParsePrefix("10.213.0.0/16")
	r := host.Rules{Bridge: "banger0", Subnet: subnet, DNS: netip.AddrPortFrom(gateway(subnet), 53), Guests: twoPins(), Closed: true}
	t.Cleanup(func() { _ = nft(context.Background(), noRules) })
	var listing string
	for _, text := range []string{r.Text(), r.Text(), noRules + "nonsense\n"} {
		err := nft(t.Context(), text)
		if (err != nil) != strings.Contains(text, "nonsense") {
			t.Fatalf("%v from\n%s", err, text)
		}
		now, err := w.host.Rules(t.Context())
		if err != nil || strings.Count(now, "\ntable ")+1 != 2 || listing != "" && now != listing {
			t.Fatalf("%v, rules:\n%s\nbefore:\n%s", err, now, listing)
		}
		listing = now
	}
}

func TestTranscript(t *testing.T) {
	n, h := fakeNetwork(t, Options{Subnet: netip.MustParsePrefix("10.213.0.0/16")})
	g := twoGuests()
	for _, g := range g {
		link, err := n.Attach(t.Context(), g, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(link.Close(), link.Close(), n.Join(t.Context(), g)); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Set(t.Context(), g); err != nil { // changes nothing
		t.Fatal(err)
	}
	for _, g := range g {
		if err := n.Detach(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "bridge.transcript", h.Transcript())
}

func TestTranscriptOfAUserNetwork(t *testing.T) {
	n, h := fakeNetwork(t, Options{UserFilter: []string{"/usr/bin/bangerd", "net-filter"}, ResolvConf: "/etc/resolv.conf"})
	g := Guest{ID: idA, Name: "a", Kind: api.NetUser, MAC: MACFor(idA).String(), IP: UserIP()}
	if err := os.MkdirAll(n.o.Paths.VM(idA).Private(), 0o700); err != nil {
		t.Fatal(err)
	}
	var recorded host.Process
	if _, err := n.Attach(t.Context(), g, func(p host.Process) error { recorded = p; return nil }); err != nil {
		t.Fatal(err)
	}
	if !h.Alive(recorded) {
		t.Error("the recorded process does not run")
	}
	if err := n.Detach(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	golden(t, "user.transcript", strings.ReplaceAll(h.Transcript(), n.o.Paths.State, "STATE"))
}

// TestAttachThatFails leaves nothing, whatever it is that fails.
func TestAttachThatFails(t *testing.T) {
	good := twoGuests()[0]
	for name, spoil := range map[string]func(*Guest, *Options, *fake.Host){
		"no address":     func(g *Guest, _ *Options, _ *fake.Host) { g.IP = netip.Addr{} },
		"another subnet": func(g *Guest, _ *Options, _ *fake.Host) { g.IP = netip.MustParseAddr("192.0.2.2") },
		"no MAC":         func(g *Guest, _ *Options, _ *fake.Host) { g.MAC = "" },
		"a hostile tap":  func(g *Guest, _ *Options, _ *fake.Host) { g.Tap = `x" accept #` },
		"route of others": func(_ *Guest, _ *Options, h *fake.Host) {
			h.HostRoutes = []host.Route{{Destination: netip.MustParsePrefix("10.0.0.0/8")}}
		},
		"unknown kind": func(g *Guest, _ *Options, _ *fake.Host) { g.Kind = "wifi" },
		"no filter":    func(g *Guest, _ *Options, _ *fake.Host) { g.Kind = api.NetUser },
		"no passt":     func(g *Guest, _ *Options, h *fake.Host) { g.Kind = api.NetUser; h.Remove("passt", "apt") },
	} {
		t.Run(name, func(t *testing.T) {
			n, h := fakeNetwork(t, Options{Subnet: netip.MustParsePrefix("10.213.0.0/16")})
			g := good
			spoil(&g, &n.o, h)
			if _, err := n.Attach(t.Context(), g, nil); err == nil || api.CodeOf(err) == "" {
				t.Errorf("error %v", err)
			}
			if taps, _ := h.Taps(DefaultBridge); len(taps) != 0 || len(n.guests) != 0 {
				t.Errorf("left behind: %v %v", taps, n.guests)
			}
		})
	}
}

// TestGuestsComeAndGoByTheSets: what a change of guests alone leaves is what writing all rules would have; chains are left alone. Where
// the rules are gone meanwhile, all are written.
func TestGuestsComeAndGoByTheSets(t *testing.T) {
	w := newWorld(t)
	subnet := netip.MustParsePrefix("10.213.0.0/16")
	with := func(pins ...host.Pin) host.Rules {
		return host.Rules{Bridge: "banger0", Subnet: subnet, DNS: netip.AddrPortFrom(gateway(subnet), 53), Guests: pins}
	}
	t.Cleanup(func() { _ = w.host.ApplyRules(context.Background(), host.Rules{Bridge: "banger0", Remove: true}) })
	pins := twoPins()
	moved := pins[1]
	moved.IP = netip.MustParseAddr("10.213.0.9")
	const mark = "table inet banger {\n\tchain sign {\n\t}\n}\n"
	for _, c := range []struct {
		what      string
		before    string // text for nft
		wanted    host.Rules
		byTheSets bool
	}{
		{"the first", "", with(pins[0]), false},
		{"one more", mark, with(pins...), true},
		{"another address", "", with(pins[0], moved), true},
		{"none left", "", with(), true},
		{"both at once", "", with(pins...), true},
		{"the rules were flushed", "flush ruleset\n", with(pins[1]), false},
		{"a set was flushed", mark + "flush set bridge banger arps\n", with(pins[0]), false},
		{"another bridge's DNS", mark, host.Rules{Bridge: "banger0", Subnet: subnet, DNS: netip.AddrPortFrom(gateway(subnet), 5300), Guests: pins}, false},
	} {
		if err := nft(t.Context(), c.before); err != nil {
			t.Fatal(err)
		}
		if err := w.host.ApplyRules(t.Context(), c.wanted); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		got := listRules(t)
		if marked := strings.Contains(got, "chain sign"); marked != c.byTheSets {
			t.Errorf("%s: by the sets: %v", c.what, marked)
		}
		if err := nft(t.Context(), c.wanted.Text()); err != nil {
			t.Fatal(err)
		}
		if want := listRules(t); strings.Replace(got, "\n\tchain sign {\n\t}\n", "", 1) != want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.what, got, want)
		}
		if c.byTheSets {
			if err := nft(t.Context(), mark); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// listRules is the packet filter with all elements of its sets.
func listRules(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "nft", "--numeric", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}
