package qemu

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
)

// kvmHost is where the verdict on KVM looks; tests point it elsewhere.
type kvmHost struct {
	cpuinfo string
	path    string
}

func realKVM() kvmHost { return kvmHost{cpuinfo: "/proc/cpuinfo", path: "/dev/kvm"} }

// device describes /dev/kvm as far as the verdict of a probe depends on it.
func (k kvmHost) device() string {
	fi, err := os.Stat(k.path)
	if err != nil {
		return "none"
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fi.Mode().String()
	}
	return fmt.Sprintf("%s %d:%d", fi.Mode(), st.Uid, st.Gid)
}

// group is the group that may use the device where others may not; 0 for none.
func (k kvmHost) group() int {
	fi, err := os.Stat(k.path)
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
func (k kvmHost) closedToVMs() bool {
	fi, err := os.Stat(k.path)
	return err == nil && os.Geteuid() == 0 && fi.Mode().Perm()&0o006 != 0o006 && k.group() == 0
}

// decide fills in the accelerator, with the reason and what would mend a "tcg". Nothing is
// believed of /dev/kvm but that an ordinary guest ran to its end on it.
func (o *oracle) decide(ctx context.Context, f *facts) error {
	f.KVMGroup = o.kvm.group()
	switch o.asked {
	case "kvm", "tcg":
		f.Accel, f.Reason = o.asked, "the configuration says so"
		return nil
	}
	reason, hint := f.Obstacle, f.ObstacleHint
	if reason == "" {
		switch err := o.probe(ctx, f); {
		case err == nil:
			f.Accel, f.Reason = "kvm", "a probe guest ran to its end on /dev/kvm"
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		default:
			reason = fmt.Sprintf("/dev/kvm is there, but a probe guest did not run on it (%v)", err)
			hint = nestedHint
		}
	}
	f.Accel, f.Reason, f.Hint = "tcg", reason, hint
	return nil
}

const nestedHint = "if this machine is itself a virtual one, switch on nested virtualisation for it in its hypervisor"

// obstacle is what can be seen to be missing without running anything.
func (k kvmHost) obstacle() (reason, hint string) {
	b, err := os.ReadFile(k.cpuinfo)
	if err != nil {
		return fmt.Sprintf("the CPU's features cannot be read: %v", err), ""
	}
	flags := cpuFlags(string(b))
	vmx, svm := slices.Contains(flags, "vmx"), slices.Contains(flags, "svm")
	f, err := os.OpenFile(k.path, os.O_RDWR, 0)
	if err == nil {
		_ = f.Close()
		if k.closedToVMs() {
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
			return reason, nestedHint
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

// cpu names the host's CPU: with KVM guests have its features, and none of them may be missing where a guest goes on.
func (k kvmHost) cpu() string {
	b, err := os.ReadFile(k.cpuinfo)
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
