package network

import (
	"bufio"
	"strings"
)

// chain is a base chain in a listing of the packet filter.
type chain struct {
	family, table, name string
	hook                string // "forward", "input", …
	policy              string // "accept" or "drop"
	// text is the whole table that the chain is in.
	text *strings.Builder
}

func (c chain) ipv4() bool { return c.family == "ip" || c.family == "inet" }

// ourTable tells the tables of any banger on this host.
func ourTable(name string) bool { return name == "banger" || strings.HasPrefix(name, "banger-") }

// parseChains reads what `nft list ruleset` prints: of interest are lines such as
//
//	table ip filter {
//		chain FORWARD {
//			type filter hook forward priority filter; policy drop;
func parseChains(listing string) []chain {
	var out []chain
	var at chain
	lines := bufio.NewScanner(strings.NewReader(listing))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) >= 4 && f[0] == "table" && f[3] == "{":
			at = chain{family: f[1], table: f[2], text: &strings.Builder{}}
		case len(f) == 3 && f[0] == "chain" && f[2] == "{":
			at.name = f[1]
		case len(f) >= 4 && f[0] == "type" && f[2] == "hook":
			c := at
			c.hook, c.policy = f[3], "accept"
			if strings.Contains(lines.Text(), "policy drop;") {
				c.policy = "drop"
			}
			if c.text != nil {
				out = append(out, c)
			}
		}
		if at.text != nil {
			at.text.WriteString(lines.Text() + "\n")
		}
	}
	return out
}
