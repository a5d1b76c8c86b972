package fake

import "banger/internal/host"

// files implements host.Files for VMMs that are made of memory.
type files struct{}

func (files) Give(string, int) error                        { return nil }
func (files) OpenMemory(host.Process) (host.Memory, error)  { return host.Memory{}, nil }
func (files) OpenedAs(_ host.Process, path string) []string { return []string{path} }
