package api

import (
	"fmt"
	"reflect"
	"strings"
)

// Limits of a spec. Upper bounds of memory and disk depend on the host and are checked there.
const (
	MaxCPUs        = 64
	MinMemoryBytes = 64 << 20
	MinDiskBytes   = 64 << 20
	// MaxDiskBytes is what package qcow2's disks reach, 4 TiB: a disk is thin, so a large one costs nothing.
	MaxDiskBytes = 4 << 40
	// MinIdleSuspendMS is the shortest idleness that suspends a VM.
	MinIdleSuspendMS = 1000
	// IdleNever is the IdleSuspendMS of a request for a VM that is never suspended by itself.
	IdleNever        = -1
	maxIdleSuspendMS = 365 * 24 * 3600 * 1000
	maxLabels        = 64
	maxLabelKey      = 63
	maxLabelValue    = 255
)

// The rules for names are plain code: a guest has a process per session, each with this package in it, and a compiled
// expression of bounded length costs a hundred kilobytes.

const (
	smallLetters = "abcdefghijklmnopqrstuvwxyz0123456789"
	letters      = smallLetters + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	maxName      = 63
)

// isDNSLabel tells a DNS label (RFC 1123): VM names become host names.
func isDNSLabel(s string) bool { return isWord(s, smallLetters, "-") && len(s) <= maxName }

func isLabelKey(s string) bool { return isWord(s, letters, "._/-") && len(s) <= maxLabelKey }

// isObjectName tells what files and command lines carry without quoting.
func isObjectName(s string) bool { return isWord(s, smallLetters, "._-") && len(s) <= maxName }

// isWord tells a word of some characters, with others that can be inside only.
func isWord(s, chars, inside string) bool {
	return s != "" && strings.Trim(s, chars+inside) == "" &&
		strings.IndexByte(chars, s[0]) >= 0 && strings.IndexByte(chars, s[len(s)-1]) >= 0
}

// ValidateName checks a VM's name.
func ValidateName(name string) error {
	if !isDNSLabel(name) {
		return Errorf(CodeInvalid, "%q is no name for a VM: use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit", name)
	}
	return nil
}

// ValidateObjectName checks the name of an image or a kernel.
func ValidateObjectName(name string) error {
	if !isObjectName(name) {
		return Errorf(CodeInvalid, "%q is no name for an image or kernel: use 1 to 63 of a-z, 0-9, '.', '_' and '-'", name)
	}
	return nil
}

// Validate checks what can be checked without knowing the host. Zero fields are
// allowed: they stand for the defaults.
func (s VMSpec) Validate() error {
	if s.CPUs < 0 || s.CPUs > MaxCPUs {
		return Errorf(CodeInvalid, "cpus is %d: give 1 to %d", s.CPUs, MaxCPUs)
	}
	if s.MemoryBytes != 0 && s.MemoryBytes < MinMemoryBytes {
		return Errorf(CodeInvalid, "memory is %d bytes: give at least 64M", s.MemoryBytes)
	}
	if s.MemoryBytes%(1<<20) != 0 {
		return Errorf(CodeInvalid, "memory is %d bytes: give a multiple of 1M", s.MemoryBytes)
	}
	if err := validateDisk("disk size", s.DiskBytes); err != nil {
		return err
	}
	if err := validateDisk("root size", s.RootBytes); err != nil {
		return err
	}
	switch s.Net {
	case "", NetBridge, NetUser, NetNone:
	default:
		return Errorf(CodeInvalid, "net is %q: give bridge, user or none", s.Net)
	}
	if s.Hypervisor != "" && !isObjectName(s.Hypervisor) {
		return Errorf(CodeInvalid, "hypervisor is %q: give firecracker, qemu or auto", s.Hypervisor)
	}
	switch ms := s.IdleSuspendMS; {
	case ms == 0 || ms == IdleNever:
	case ms < MinIdleSuspendMS || ms > maxIdleSuspendMS:
		return Errorf(CodeInvalid, "idle suspend is %d ms: give 1s to a year, or 0 for never", ms)
	}
	return validateLabels(s.Labels)
}

// Validate checks a request for forks.
func (f VMFork) Validate() error {
	if f.Count < 0 || f.Count > MaxForks || len(f.Names) > MaxForks {
		return Errorf(CodeInvalid, "count is %d: give 1 to %d", max(f.Count, len(f.Names)), MaxForks)
	}
	if len(f.Names) > 0 && (f.Name != "" || f.Count != 0 && f.Count != len(f.Names)) {
		return Errorf(CodeInvalid, "%d names are given: leave out name, and count or make it the same", len(f.Names))
	}
	seen := map[string]bool{}
	for _, name := range f.AllNames() {
		if name == "" {
			continue
		}
		if err := ValidateName(name); err != nil {
			return err
		}
		if seen[name] {
			return Errorf(CodeInvalid, "the name %q is given twice", name)
		}
		seen[name] = true
	}
	return validateLabels(f.Labels)
}

// AllNames is a name for each fork, empty where one is to be made up.
func (f VMFork) AllNames() []string {
	if len(f.Names) > 0 {
		return f.Names
	}
	names := make([]string, max(1, f.Count))
	for n := range names {
		names[n] = f.Name
		if f.Name != "" && len(names) > 1 {
			names[n] = fmt.Sprintf("%s-%d", f.Name, n+1)
		}
	}
	return names
}

func validateDisk(what string, bytes int64) error {
	switch {
	case bytes == 0:
		return nil
	case bytes < MinDiskBytes || bytes > MaxDiskBytes:
		return Errorf(CodeInvalid, "%s is %d bytes: give 64M to 4T", what, bytes)
	case bytes%(1<<20) != 0:
		return Errorf(CodeInvalid, "%s is %d bytes: give a multiple of 1M", what, bytes)
	}
	return nil
}

func validateLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return Errorf(CodeInvalid, "%d labels: give at most %d", len(labels), maxLabels)
	}
	for k, v := range labels {
		if !isLabelKey(k) {
			return Errorf(CodeInvalid, "%q is no key for a label: use 1 to %d letters, digits, '.', '_', '/' and '-'", k, maxLabelKey)
		}
		if len(v) > maxLabelValue || strings.ContainsAny(v, "\x00\n") {
			return Errorf(CodeInvalid, "the value of label %q is too long (over %d bytes) or has a line break", k, maxLabelValue)
		}
	}
	return nil
}

// Validate checks the request before anything is reserved.
func (c VMCreate) Validate() error {
	if c.Name != "" {
		if err := ValidateName(c.Name); err != nil {
			return err
		}
	}
	if len(c.ClientID) > 128 {
		return Errorf(CodeInvalid, "the client id has %d bytes: give at most 128", len(c.ClientID))
	}
	if err := c.Git.Validate(); err != nil {
		return err
	}
	if c.Snapshot != "" {
		return c.validateFromSnapshot()
	}
	return c.Spec.Validate()
}

// validateFromSnapshot refuses what a VM from a snapshot cannot choose: its memory goes with its shape.
func (c VMCreate) validateFromSnapshot() error {
	if _, _, err := SplitSnapshot(c.Snapshot); err != nil {
		return err
	}
	shape := c.Spec
	shape.Labels, shape.AutoRemove, shape.Autostart, shape.IdleSuspendMS = nil, false, false, 0
	if !reflect.DeepEqual(shape, VMSpec{}) || c.Cold {
		return Errorf(CodeInvalid, "a VM from a snapshot has the snapshot's image, kernel, sizes and network, and is not booted: give none of them")
	}
	return VMSpec{Labels: c.Spec.Labels, IdleSuspendMS: c.Spec.IdleSuspendMS}.Validate()
}

// Validate checks a command before it is sent to a guest.
func (e ExecSpec) Validate() error {
	if len(e.Argv) == 0 || e.Argv[0] == "" {
		return Errorf(CodeInvalid, "no command given").WithHint("banger exec NAME -- COMMAND")
	}
	for _, kv := range e.Env {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" || strings.Contains(kv, "\x00") {
			return Errorf(CodeInvalid, "an environment entry is not KEY=VALUE")
		}
	}
	if e.Cwd != "" && !strings.HasPrefix(e.Cwd, "/") {
		return Errorf(CodeInvalid, "working directory %q is not absolute", e.Cwd)
	}
	if e.TimeoutMS < 0 {
		return Errorf(CodeInvalid, "timeout is negative")
	}
	if e.OutputLimitBytes < 0 || e.OutputLimitBytes > 64<<20 {
		return Errorf(CodeInvalid, "output limit is %d bytes: give at most 64M", e.OutputLimitBytes)
	}
	return nil
}
