package qemu

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"banger/internal/hypervisor"
)

// The descriptors that QEMU inherits, in the order of host.Command.Files.
const (
	fdControl = 3
	fdAgent   = 4
	fdTap     = 5
)

// sandbox is QEMU's own seccomp filter. It also sets no_new_privs. -runas dies of it,
// so QEMU is started under its uid already.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// tbSizeMiB is the buffer for translated code; the default reserves 1 GiB per VM.
const tbSizeMiB = 128

// arguments is QEMU's command line for m. Every value that holds a path goes in as
// JSON, or with its commas doubled.
func arguments(m *hypervisor.Machine, f *facts) ([]string, error) {
	mem := strconv.FormatInt(m.MemoryBytes>>20, 10) + "M"
	args := []string{
		"-name", "guest=" + escape(m.ID),
		"-nodefaults", "-no-user-config", "-display", "none",
		"-sandbox", sandbox,
		// The guest runs when the daemon has written down that it exists.
		"-S",
		"-machine", machine(f),
		"-cpu", cpuModel(f),
		"-smp", strconv.Itoa(m.CPUs),
		"-m", mem,
		"-object", "memory-backend-ram,id=mem,size=" + mem + ",reserve=off",
		"-kernel", m.Kernel, "-initrd", m.Initramfs, "-append", kernelCmdline(m, f),
		"-chardev", identifies(m),
		"-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=control,fd=%d,server=on,wait=off", fdControl),
		"-mon", "chardev=control,mode=control",
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d,server=on,wait=off", fdAgent),
		"-device", "virtio-serial-device,max_ports=2",
		"-device", "virtserialport,id=agent0,chardev=agent,name=banger.agent",
		"-object", "rng-random,id=rng,filename=/dev/urandom",
		"-device", "virtio-rng-device,rng=rng",
	}
	args = append(args, accelArgs(f)...)
	for i, d := range m.Drives {
		a, err := driveArgs(node(i), d)
		if err != nil {
			return nil, err
		}
		args = append(args, a...)
	}
	if m.NIC != nil {
		args = append(args, nicArgs(m.NIC)...)
	}
	return args, nil
}

// machine leaves out what this QEMU does not know. Without the PIT an idle guest
// costs half the CPU; without PIC or RTC a cold boot takes two seconds longer.
func machine(f *facts) string {
	parts := []string{"microvm", "memory-backend=mem"}
	for _, o := range []string{"acpi=on", "pit=off", "suppress-vmdesc=on"} {
		name, _, _ := strings.Cut(o, "=")
		if f.knows(name) {
			parts = append(parts, o)
		}
	}
	return strings.Join(parts, ",")
}

// cpuModel: with `rep movsb` advertised, a guest copies byte by byte in emulation.
func cpuModel(f *facts) string {
	if f.Accel == "kvm" {
		return "host"
	}
	return "max,-erms,-fsrm"
}

func accelArgs(f *facts) []string {
	if f.Accel == "kvm" {
		return []string{"-accel", "kvm"}
	}
	return []string{"-accel", fmt.Sprintf("tcg,tb-size=%d", tbSizeMiB)}
}

// kernelCmdline is m's with what this machine type needs. Under emulation on a busy host the
// kernel's own calibration of the TSC fails and the guest hangs, so it is told. A reboot by triple
// fault is what QEMU recommends for microvm: on a loaded host the ACPI register did nothing in every third
// reboot after a panic, and Linux then jumped into a firmware that cannot run twice. A kernel that has panicked
// reboots, instead of spinning for ever.
func kernelCmdline(m *hypervisor.Machine, f *facts) string {
	parts := []string{"console=ttyS0", "tsc=reliable", "nowatchdog", "reboot=t", "panic=1"}
	if f.Accel != "kvm" {
		parts = append(parts, "no_timer_check")
		if f.TSCKHz > 0 {
			parts = append(parts, fmt.Sprintf("tsc_early_khz=%d", f.TSCKHz))
		}
	}
	if m.Cmdline != "" {
		parts = append(parts, m.Cmdline)
	}
	return strings.Join(parts, " ")
}

// node is the name of drive i's block node.
func node(i int) string { return "d" + strconv.Itoa(i) }

func driveArgs(name string, d hypervisor.Drive) ([]string, error) {
	block := map[string]any{
		"driver": d.Format, "node-name": name, "read-only": d.ReadOnly,
		"file": map[string]any{"driver": "file", "filename": d.Path, "read-only": d.ReadOnly, "discard": "unmap"},
	}
	device := map[string]any{"driver": "virtio-blk-device", "id": "v" + name, "drive": name, "serial": d.Serial}
	if !d.ReadOnly {
		block["discard"], block["detect-zeroes"] = "unmap", "unmap"
		// A full host disk pauses the guest instead of failing its writes; its flushes are the host's fdatasync.
		device["werror"], device["write-cache"] = "enospc", "on"
	}
	b, err := json.Marshal(block)
	if err != nil {
		return nil, err
	}
	v, err := json.Marshal(device)
	if err != nil {
		return nil, err
	}
	return []string{"-blockdev", string(b), "-device", string(v)}, nil
}

func nicArgs(n *hypervisor.NIC) []string {
	netdev := fmt.Sprintf("tap,id=net0,fd=%d", fdTap)
	if n.Tap == nil {
		netdev = "stream,id=net0,server=off,addr.type=unix,addr.path=" + escape(n.Socket)
	}
	return []string{"-netdev", netdev, "-device", "virtio-net-device,netdev=net0,mac=" + n.MAC}
}

// escape doubles commas, as QEMU's option syntax wants them.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
