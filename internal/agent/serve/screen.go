package serve

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// scrollback is how much of a terminal's output is shown again to whoever attaches, in bytes.
const scrollback = 64 << 10

// keptModes are the terminal's modes (DEC private) that a program sets once and counts on: cursor keys, wrapping, cursor,
// mouse, alternate screen, bracketed paste.
var keptModes = []int{1, 7, 25, 47, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1049, 2004}

// modes follows what a command tells its terminal, so that one that comes later can be told the same.
type modes struct {
	set map[int]bool
	// keypad is "=" or ">" once the command has chosen.
	keypad byte
	// part is the beginning of a sequence whose end has not come yet.
	part []byte
}

// see is told of the output as it comes. Sequences are ESC [ ? N ; N h|l, ESC = and ESC > (ECMA-48, xterm's ctlseqs).
func (m *modes) see(p []byte) {
	if len(m.part) > 0 {
		p = append(m.part, p...)
		m.part = nil
	}
	for {
		i := bytes.IndexByte(p, 0x1b)
		if i < 0 {
			return
		}
		p = p[i:]
		n, whole := m.sequence(p)
		if !whole {
			m.part = slices.Clone(p)
			return
		}
		p = p[n:]
	}
}

// longestSequence is more than any that is looked for.
const longestSequence = 64

// sequence takes up what begins with ESC; n is what it has read of it.
func (m *modes) sequence(p []byte) (n int, whole bool) {
	if len(p) < 2 {
		return 0, false
	}
	switch p[1] {
	case '=', '>':
		m.keypad = p[1]
		return 2, true
	case 'c': // everything as at the start
		*m = modes{}
		return 2, true
	case '[':
	default:
		return 1, true
	}
	end := 2
	for end < len(p) && (p[end] >= '0' && p[end] <= '9' || p[end] == ';' || p[end] == '?') {
		end++
	}
	if end == len(p) && end < longestSequence {
		return 0, false
	}
	if end == len(p) || p[2] != '?' || p[end] != 'h' && p[end] != 'l' {
		return 2, true
	}
	for _, word := range strings.Split(string(p[3:end]), ";") {
		if mode, err := strconv.Atoi(word); err == nil && slices.Contains(keptModes, mode) {
			if m.set == nil {
				m.set = map[int]bool{}
			}
			m.set[mode] = p[end] == 'h'
		}
	}
	return end + 1, true
}

// alternate reports whether the command has the alternate screen: it paints all of it itself.
func (m *modes) alternate() bool { return m.set[47] || m.set[1047] || m.set[1049] }

// before is what a terminal gets before it is shown old output: an empty screen, the right one of its two.
func (m *modes) before() string {
	if m.alternate() {
		return "\x1b[?1049h\x1b[H\x1b[2J"
	}
	return "\x1b[H\x1b[2J"
}

// after puts the terminal's modes to what they are by now.
func (m *modes) after() string {
	var b strings.Builder
	for _, mode := range keptModes {
		if mode == 47 || mode == 1047 || mode == 1049 {
			continue // before has done it; again it would clear the screen
		}
		if on, known := m.set[mode]; known {
			fmt.Fprintf(&b, "\x1b[?%d%c", mode, map[bool]byte{true: 'h', false: 'l'}[on])
		}
	}
	if m.keypad != 0 {
		b.WriteString("\x1b" + string(m.keypad))
	}
	return b.String()
}

// clone is a copy that does not change any more.
func (m *modes) clone() modes {
	c := modes{keypad: m.keypad, set: make(map[int]bool, len(m.set))}
	for k, v := range m.set {
		c.set[k] = v
	}
	return c
}
