package ssh

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"
)

// hosts is a known_hosts file (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT). Lines that
// are no plain pins (comments, markers, hashed names, what cannot be read) are kept as they are.
type hosts struct {
	lines []line
}

type line struct {
	text  string // as it stands in the file
	names []string
	key   string // "ssh-ed25519 AAAA…"
}

func parseHosts(data []byte) hosts {
	var h hosts
	for text := range bytes.Lines(data) {
		h.lines = append(h.lines, parseLine(strings.TrimRight(string(text), "\r\n")))
	}
	return h
}

func parseLine(text string) line {
	l := line{text: text}
	f := strings.Fields(text)
	if len(f) < 3 || strings.HasPrefix(f[0], "#") || strings.HasPrefix(f[0], "@") || strings.HasPrefix(f[0], "|") {
		return l
	}
	if _, err := base64.StdEncoding.DecodeString(f[2]); err != nil {
		return l
	}
	l.names, l.key = strings.Split(f[0], ","), f[1]+" "+f[2]
	return l
}

// cleanKey takes the type and the key of a public line; false where it is none.
func cleanKey(public string) (string, bool) {
	if strings.ContainsAny(public, "\r\n") {
		return "", false
	}
	f := strings.Fields(public)
	if len(f) < 2 || strings.HasPrefix(f[0], "#") || strings.HasPrefix(f[0], "@") {
		return "", false
	}
	if b, err := base64.StdEncoding.DecodeString(f[1]); err != nil || len(b) == 0 {
		return "", false
	}
	return f[0] + " " + f[1], true
}

// cleanName checks that a name is one, and not a pattern or a second field.
func cleanName(name string) bool {
	if name == "" || len(name) > 255 || strings.ContainsAny(name[:1], "#@|!") {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(",*?!", r) })
}

// drop takes names out of all plain lines, and reports whether there were any.
func (h *hosts) drop(names []string) bool {
	changed := false
	kept := h.lines[:0]
	for _, l := range h.lines {
		left := slices.DeleteFunc(slices.Clone(l.names), func(n string) bool { return slices.Contains(names, n) })
		if len(left) == len(l.names) {
			kept = append(kept, l)
			continue
		}
		changed = true
		if len(left) > 0 {
			kept = append(kept, line{text: strings.Join(left, ",") + " " + l.key, names: left, key: l.key})
		}
	}
	h.lines = kept
	return changed
}

func (h *hosts) add(names []string, key string) {
	h.lines = append(h.lines, line{text: strings.Join(names, ",") + " " + key, names: slices.Clone(names), key: key})
}

func (h *hosts) bytes() []byte {
	var b bytes.Buffer
	for _, l := range h.lines {
		b.WriteString(l.text)
		b.WriteByte('\n')
	}
	return b.Bytes()
}
