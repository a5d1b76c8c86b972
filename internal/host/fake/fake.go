// Package fake is a machine that only remembers what would have been done to it: scenario
// scripts and unit tests compare its transcript as text. It is a part of tests
// and can never be chosen by a user.
package fake

// Host is a machine made of memory.
type Host struct {
	processes // process*.go
	networks  // network*.go
}

// New returns a machine on which nothing has happened yet.
func New() *Host { return &Host{} }
