package vm

import "encoding/binary"

// Words for made-up names: short, plain, and no two of one list alike at a glance.
var (
	adjectives = [...]string{"able", "amber", "bold", "brave", "brisk", "calm", "clear", "cosy", "crisp", "deft", "eager", "early", "fair", "fleet", "fond", "gentle", "glad", "grand", "green", "handy", "happy", "hardy", "jolly", "keen", "kind", "lively", "lucky", "mellow", "merry", "mild", "neat", "nimble", "noble", "plain", "proud", "quick", "quiet", "rapid", "ready", "rosy", "sharp", "sleek", "smart", "snug", "solid", "spry", "steady", "stout", "sunny", "swift", "tidy", "trim", "vivid", "warm", "wise", "witty"}
	nouns      = [...]string{"acorn", "anvil", "badger", "beacon", "birch", "brook", "cedar", "cliff", "comet", "coral", "crane", "delta", "dune", "ember", "falcon", "fern", "finch", "fjord", "forge", "fox", "garnet", "glade", "grove", "harbor", "hawk", "hazel", "heron", "inlet", "iris", "island", "jasper", "juniper", "kestrel", "lagoon", "lark", "linden", "lynx", "maple", "marsh", "meadow", "mesa", "moss", "oak", "orchid", "otter", "pebble", "pine", "plover", "quartz", "raven", "reed", "ridge", "robin", "sparrow", "spruce", "summit", "thistle", "tern", "valley", "willow"}
)

// names makes up ids and names.
type names struct{ random func([]byte) }

// madeUp is an adjective and a noun that no VM has yet.
func (n *names) madeUp(taken map[string]bool) string {
	for {
		var b [4]byte
		n.random(b[:])
		name := adjectives[int(binary.BigEndian.Uint16(b[:]))%len(adjectives)] + "-" + nouns[int(binary.BigEndian.Uint16(b[2:]))%len(nouns)]
		if taken[name] && len(taken) > len(adjectives)*len(nouns)/2 {
			name += "-" + n.newID()[:4]
		}
		if !taken[name] {
			return name
		}
	}
}

// idAlphabet has 32 characters: five bits each, and nothing that looks like something else.
const idAlphabet = "abcdefghijklmnopqrstuvwxyz234567"

// newID is twelve characters, sixty bits: never the same twice in practice. The first
// one is a letter, so that no id is a number.
func (n *names) newID() string {
	var b [12]byte
	n.random(b[:])
	for i := range b {
		b[i] = idAlphabet[b[i]%32]
	}
	if b[0] >= '2' && b[0] <= '7' {
		b[0] = 'a' + b[0] - '2'
	}
	return string(b[:])
}
