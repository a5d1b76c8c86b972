// Package backend is the ways in which this daemon can run guests: each a hypervisor with the disks that it takes. It says
// which one a machine is of, and which one a new machine gets. It may be imported by template, vm, server, doctor and daemon.
package backend

import (
	"strings"

	"banger/api"
	"banger/internal/disk"
	"banger/internal/hypervisor"
)

// Backend is one way to run guests.
type Backend struct {
	Hypervisor hypervisor.Hypervisor
	// Disks makes what lies on images and templates.
	Disks disk.Driver
	// Overlays makes what lies on layers, whatever Disks is.
	Overlays disk.Driver
}

// Name is the hypervisor's.
func (b Backend) Name() string { return b.Hypervisor.Name() }

// Driver is what a disk is grown by; layer is that which it lies on, empty for one on a template or an image.
func (b Backend) Driver(layer string) disk.Driver {
	if layer != "" {
		return b.Overlays
	}
	return b.Disks
}

// FilesOf is whom the files of a machine's disks belong to, by the uid of its VMM: 0, the daemon, where VMMs get the disks as devices.
func (b Backend) FilesOf(uid int) int {
	if _, ok := b.Overlays.(disk.Attacher); ok {
		return 0
	}
	return uid
}

// OneFormat reports whether all its disks have the same format, so that a chain can be made short down to its end.
func (b Backend) OneFormat() bool { return b.Disks.Format() == b.Overlays.Format() }

// Set is all backends of a daemon, the better ones first. It is not changed once it is made.
type Set struct {
	// Default is the name of the one that machines get which ask for none; api.HypervisorAuto is the first that can work.
	Default string
	all     []Backend
}

// NewSet makes a set; the last backend is the one whose failure to work is told where none does.
func NewSet(standard string, all ...Backend) Set { return Set{Default: standard, all: all} }

// All lists them, the better ones first.
func (s Set) All() []Backend { return s.all }

// Names lists their names.
func (s Set) Names() []string {
	var names []string
	for _, b := range s.all {
		names = append(names, b.Name())
	}
	return names
}

// Get finds the backend by a name that a record holds.
func (s Set) Get(name string) (Backend, error) {
	for _, b := range s.all {
		if b.Name() == name {
			return b, nil
		}
	}
	return Backend{}, api.Errorf(api.CodeUnsupported, "there is no hypervisor %q: %s is what this bangerd knows", name, strings.Join(s.Names(), ", ")).WithHint("banger info")
}
