// Package fake is a machine that only remembers what would have been done to it: scenario
// scripts and unit tests compare its transcript as text. It is a part of tests
// and can never be chosen by a user.
package fake

import (
	"strings"
	"sync"
)

// Host is a machine made of memory.
type Host struct {
	*processes // process*.go
	networks   // network*.go
	files      // files.go
	*blocks    // blocks.go
	jails      // jail.go

	script *transcript
}

// New returns a machine on which nothing has happened yet.
func New() *Host {
	script := &transcript{}
	h := &Host{processes: newProcesses(script), networks: networks{script: script}, blocks: newBlocks(script), script: script}
	h.Act("passt", playPasst)
	return h
}

// Transcript is what was done so far, a line each, in order.
func (h *Host) Transcript() string { return h.script.String() }

// transcript is shared by the machine's parts, so that the order between them shows.
type transcript struct {
	mu    sync.Mutex // protects lines
	lines []string
}

func (t *transcript) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, line)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == 0 {
		return ""
	}
	return strings.Join(t.lines, "\n") + "\n"
}
