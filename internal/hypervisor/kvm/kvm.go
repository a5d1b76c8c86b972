// Package kvm says whether this host's KVM runs ordinary guests: what can be seen without running anything, and a probe guest that a
// VMM runs to its end. It belongs to the hypervisors, which only they and their wiring import.
package kvm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Device is where the verdict on KVM looks. Safe for concurrent use; the hypervisors of a daemon share one.
type Device struct {
	cpuinfo string
	path    string

	look   sync.Once // guards flags and unread
	flags  []string
	unread error
}

// New is this host's.
func New() *Device { return At("/proc/cpuinfo", "/dev/kvm") }

// At looks at other files, for tests.
func At(cpuinfo, path string) *Device { return &Device{cpuinfo: cpuinfo, path: path} }

// State describes /dev/kvm as far as the verdict of a probe depends on it.
func (d *Device) State() string {
	fi, err := os.Stat(d.path)
	if err != nil {
		return "none"
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fi.Mode().String()
	}
	return fmt.Sprintf("%s %d:%d", fi.Mode(), st.Uid, st.Gid)
}

// Group is the group that may use the device where others may not; 0 for none.
func (d *Device) Group() int {
	fi, err := os.Stat(d.path)
	if err != nil || fi.Mode().Perm()&0o006 == 0o006 || fi.Mode().Perm()&0o060 != 0o060 {
		return 0
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return int(st.Gid)
	}
	return 0
}

var errRootOnly = errors.New("only root may open it")

// closedToVMs: where the daemon is root, VMMs have uids of their own and at most the device's group.
func (d *Device) closedToVMs() bool {
	fi, err := os.Stat(d.path)
	return err == nil && os.Geteuid() == 0 && fi.Mode().Perm()&0o006 != 0o006 && d.Group() == 0
}

// NestedHint is what would mend a KVM that is there and runs no guest.
const NestedHint = "if this machine is itself a virtual one, switch on nested virtualisation for it in its hypervisor"

// cpu is what the CPU can do. It is read once: reading /proc/cpuinfo disturbs every core.
func (d *Device) cpu() ([]string, error) {
	d.look.Do(func() {
		var b []byte
		if b, d.unread = os.ReadFile(d.cpuinfo); d.unread == nil {
			d.flags = cpuFlags(string(b))
		}
	})
	return d.flags, d.unread
}

// Obstacle is what can be seen to be missing without running anything, as a clause, and what would mend it; empty for nothing. It is
// looked for each time: a module may be loaded, or a user be let in, while the daemon runs.
func (d *Device) Obstacle() (reason, hint string) {
	flags, err := d.cpu()
	if err != nil {
		return fmt.Sprintf("the CPU's features cannot be read: %v", err), ""
	}
	vmx, svm := slices.Contains(flags, "vmx"), slices.Contains(flags, "svm")
	f, err := os.OpenFile(d.path, os.O_RDWR, 0)
	if err == nil {
		_ = f.Close()
		if d.closedToVMs() {
			err = errRootOnly
		}
	}
	switch {
	case !vmx && !svm:
		reason = "the CPU offers no virtualisation: neither vmx nor svm in /proc/cpuinfo"
		if err == nil || errors.Is(err, errRootOnly) {
			reason += ", so the /dev/kvm that is there cannot run an ordinary guest"
		}
		if slices.Contains(flags, "hypervisor") {
			return reason, NestedHint
		}
		return reason, "switch on virtualisation (VT-x or AMD-V) in this machine's firmware"
	case errors.Is(err, os.ErrNotExist):
		module := "kvm_intel"
		if svm {
			module = "kvm_amd"
		}
		return "there is no /dev/kvm", "sudo modprobe " + module
	case errors.Is(err, errRootOnly):
		return "only root may open /dev/kvm, and no VM runs as root", "sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm"
	case errors.Is(err, os.ErrPermission):
		return "this user may not open /dev/kvm", "sudo usermod -aG kvm $USER, then log in again"
	case err != nil:
		return fmt.Sprintf("/dev/kvm cannot be opened: %v", err), "sudo dmesg | grep -i kvm"
	}
	return "", ""
}

// CPU names the host's CPU: with KVM guests have its features, and none of them may be missing where a guest goes on.
func (d *Device) CPU() string {
	b, err := os.ReadFile(d.cpuinfo)
	if err != nil {
		return ""
	}
	model := ""
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	flags := sha256.Sum256([]byte(strings.Join(cpuFlags(string(b)), " ")))
	return fmt.Sprintf("%s, features %x", model, flags[:6])
}

// cpuFlags are those of the first processor.
func cpuFlags(cpuinfo string) []string {
	for line := range strings.Lines(cpuinfo) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
			return strings.Fields(value)
		}
	}
	return nil
}
