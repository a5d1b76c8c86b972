package network

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/api"
	"banger/internal/host"
)

func TestConflicts(t *testing.T) {
	files, err := filepath.Glob("testdata/conflicts/*.nft")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d listings, %v", len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			listing, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			n, h := fakeNetwork(t, Options{})
			h.ForeignRules = string(listing)
			var out strings.Builder
			for _, c := range n.Conflicts(t.Context()) {
				out.WriteString(c.Verdict + ": " + c.Name + ": " + c.Detail + "\n")
				if c.Hint != "" {
					out.WriteString("\t" + c.Hint + "\n")
				}
				if (c.Verdict == api.VerdictOK) != (c.Hint == "") {
					t.Errorf("%+v: a hint belongs to what is not well, and to nothing else", c)
				}
			}
			golden(t, strings.TrimPrefix(strings.TrimSuffix(f, ".nft"), "testdata/")+".doctor", out.String())
		})
	}
}

func TestConflictsWithoutRoot(t *testing.T) {
	n, h := fakeNetwork(t, Options{})
	h.NoBridge = api.Errorf(api.CodeDenied, "no")
	if c := n.Conflicts(t.Context()); len(c) != 1 || c[0].Verdict != api.VerdictOK {
		t.Errorf("%+v", c)
	}
}

func TestConflictOfSubnets(t *testing.T) {
	n, h := fakeNetwork(t, Options{Subnet: otherSubnets()[0], SubnetFixed: true})
	h.HostRoutes = []host.Route{{Destination: otherSubnets()[0], Link: "vpn0"}}
	c := n.Conflicts(t.Context())
	if c[0].Verdict != api.VerdictFail || !strings.Contains(c[0].Detail, "vpn0") || !strings.Contains(c[0].Hint, "subnet") {
		t.Errorf("%+v", c[0])
	}
}

// TestHintsWork: with each hint that is for nft itself carried out, doctor is content.
func TestHintsWork(t *testing.T) {
	w := newWorld(t)
	strict := "table inet strict {\n chain fwd0 {\n type filter hook forward priority 0; policy drop;\n }\n chain in0 {\n type filter hook input priority 0; policy drop;\n }\n}\n"
	if err := nft(t.Context(), strict); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nft(context.Background(), "delete table inet strict\n") })
	n := New(w.o)
	a := w.attach(n, idA)
	w.beyond.do(t, func() error { answer(t, "0.0.0.0:7002"); return nil })
	if err := n.Join(t.Context(), a.guest); err != nil {
		t.Fatal(err)
	}
	gw := n.GuestConfig(a.guest).Gateway
	reach := func() (error, error) {
		return a.try(func() error { return call(uplinkBeyond+":7002", impatience) }),
			a.try(func() error { return ping(gw+":53", impatience) })
	}
	if beyond, _ := reach(); beyond == nil {
		t.Fatal("a drop of another's table does not drop; this test proves nothing")
	}
	hints := 0
	for _, c := range n.Conflicts(t.Context()) {
		if c.Verdict != api.VerdictWarn {
			continue
		}
		hints++
		for cmd := range strings.SplitSeq(c.Hint, " && ") {
			rule, ok := strings.CutPrefix(strings.ReplaceAll(cmd, "'", ""), "sudo nft ")
			if !ok {
				t.Fatalf("hint %q", c.Hint)
			}
			if err := nft(t.Context(), rule+"\n"); err != nil {
				t.Fatalf("%s: %v", cmd, err)
			}
		}
	}
	if hints != 2 {
		t.Errorf("%d hints, want one for each chain", hints)
	}
	for _, c := range n.Conflicts(t.Context()) {
		if c.Verdict != api.VerdictOK {
			t.Errorf("after the hints: %+v", c)
		}
	}
	if beyond, _ := reach(); beyond != nil {
		t.Errorf("after the hints: %v", beyond)
	}
	a.do(t, func() error { _, err := ask(gw+":53", "vm-aaaa.vm.", 1, "udp"); return err })
}
