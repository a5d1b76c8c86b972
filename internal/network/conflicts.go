package network

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"

	"banger/api"
	"banger/internal/host"
)

// Conflicts finds what else on this host decides about packets and would stop those of our
// guests: an accept of ours does not lift a drop of another's. Each check says which command
// lets the bridge through. It changes nothing.
func (n *Network) Conflicts(ctx context.Context) []api.Check {
	switch err := n.o.Host.CanBridge(); api.CodeOf(err) {
	case "":
	case api.CodeDenied:
		return []api.Check{{Name: "bridge network", Verdict: api.VerdictOK, Detail: "not without root: VMs get user networks, which need no rules"}}
	default:
		return []api.Check{{Name: "bridge network", Verdict: api.VerdictWarn, Detail: err.Error(), Hint: api.AsError(err).Hint}}
	}
	checks := []api.Check{n.checkSubnet()}
	listing, err := n.o.Host.Rules(ctx)
	if err != nil {
		return append(checks, api.Check{Name: "packet filter", Verdict: api.VerdictFail, Detail: err.Error(), Hint: "sudo apt-get install nftables"})
	}
	found := 0
	for _, c := range parseChains(listing) {
		if c.policy != "drop" || !c.ipv4() || ourTable(c.table) || (c.hook != "forward" && c.hook != "input") {
			continue
		}
		found++
		checks = append(checks, n.checkChain(c, listing))
	}
	if strings.Contains(listing, "table inet firewalld") {
		found++
		checks = append(checks, n.checkFirewalld(listing))
	}
	if c, ok := n.checkLegacy(ctx); ok {
		found++
		checks = append(checks, c)
	}
	if found == 0 {
		checks = append(checks, api.Check{Name: "other packet filters", Verdict: api.VerdictOK, Detail: "none drops what guests send"})
	}
	return checks
}

func (n *Network) checkSubnet() api.Check {
	c := api.Check{Name: "guest subnet", Verdict: api.VerdictOK}
	subnet, err := n.chooseSubnet(nil)
	if err != nil {
		c.Verdict, c.Detail, c.Hint = api.VerdictFail, err.Error(), api.AsError(err).Hint
		return c
	}
	c.Detail = fmt.Sprintf("%s is free", subnet)
	return c
}

// checkChain judges one chain that drops what nothing accepts. A table that names our bridge in a rule that accepts
// has been told already.
func (n *Network) checkChain(c chain, listing string) api.Check {
	owner, hint := n.blame(c, listing)
	check := api.Check{Name: fmt.Sprintf("%s (%s chain %s of table %s %s)", owner, c.hook, c.name, c.family, c.table)}
	if accepts(c.text.String(), n.o.Bridge) {
		check.Verdict, check.Detail = api.VerdictOK, "lets "+n.o.Bridge+" through"
		return check
	}
	what := "its policy drops what guests send beyond this host"
	if c.hook == "input" {
		what = "its policy drops what guests ask the DNS on " + n.o.Bridge
	}
	check.Verdict, check.Detail, check.Hint = api.VerdictWarn, what, hint
	return check
}

// accepts reports whether a rule of the listing takes packets that come in from the link.
func accepts(table, link string) bool {
	for line := range strings.Lines(table) {
		if strings.Contains(line, fmt.Sprintf("iifname %q", link)) && !strings.Contains(line, "drop") && !strings.Contains(line, "reject") {
			return true
		}
	}
	return false
}

// blame guesses whose chain it is, and gives the command of that owner.
func (n *Network) blame(c chain, listing string) (owner, hint string) {
	b := n.o.Bridge
	switch {
	case strings.Contains(listing, "ufw-"):
		if c.hook == "input" {
			return "ufw", fmt.Sprintf("sudo ufw allow in on %s to any port 53", b)
		}
		return "ufw", fmt.Sprintf("sudo ufw route allow in on %s", b)
	case strings.Contains(listing, "chain DOCKER-USER") && c.hook == "forward":
		return "docker", fmt.Sprintf("sudo iptables -I DOCKER-USER -i %s -j ACCEPT && sudo iptables -I DOCKER-USER -o %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", b, b)
	case c.table == "firewalld":
		return "firewalld", firewalldHint(b)
	case c.hook == "input":
		return "packet filter", fmt.Sprintf("sudo nft insert rule %s %s %s iifname %s meta l4proto '{ tcp, udp }' th dport 53 accept", c.family, c.table, c.name, b)
	}
	return "packet filter", fmt.Sprintf("sudo nft insert rule %s %s %s iifname %s accept && sudo nft insert rule %s %s %s oifname %s ct state established,related accept",
		c.family, c.table, c.name, b, c.family, c.table, c.name, b)
}

func firewalldHint(bridge string) string {
	return fmt.Sprintf("sudo firewall-cmd --permanent --zone=trusted --add-interface=%s && sudo firewall-cmd --reload", bridge)
}

// checkFirewalld: its chains have the policy accept and end in a reject, so it is known by its table.
func (n *Network) checkFirewalld(listing string) api.Check {
	c := api.Check{Name: "firewalld", Verdict: api.VerdictOK, Detail: n.o.Bridge + " is in one of its zones"}
	if !strings.Contains(listing, fmt.Sprintf("iifname %q", n.o.Bridge)) || !strings.Contains(listing, "_trusted") {
		c.Verdict, c.Detail, c.Hint = api.VerdictWarn, "it rejects what comes from interfaces that it does not know", firewalldHint(n.o.Bridge)
	}
	return c
}

// legacyTables lists the tables of the old iptables that the kernel has in use; nft does not show them.
const legacyTables = "/proc/net/ip_tables_names"

func (n *Network) checkLegacy(ctx context.Context) (api.Check, bool) {
	names, err := os.ReadFile(legacyTables)
	if err != nil || !strings.Contains(string(names), "filter") {
		return api.Check{}, false
	}
	c := api.Check{Name: "iptables-legacy", Verdict: api.VerdictOK, Detail: "its FORWARD chain accepts"}
	var out bytes.Buffer
	if err := n.o.Host.Run(ctx, host.Command{Path: "iptables-legacy", Args: []string{"-S", "FORWARD"}, Stdout: &out}); err != nil {
		c.Verdict, c.Detail, c.Hint = api.VerdictWarn, "old iptables rules are in force, but cannot be listed: "+err.Error(), "sudo apt-get install iptables"
		return c, true
	}
	if strings.Contains(out.String(), "-P FORWARD DROP") && !strings.Contains(out.String(), "-i "+n.o.Bridge+" ") {
		c.Verdict, c.Detail = api.VerdictWarn, "the policy of its FORWARD chain drops what guests send beyond this host"
		c.Hint = fmt.Sprintf("sudo iptables-legacy -I FORWARD -i %s -j ACCEPT && sudo iptables-legacy -I FORWARD -o %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", n.o.Bridge, n.o.Bridge)
	}
	return c, true
}
