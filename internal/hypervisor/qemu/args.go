package qemu

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"banger/internal/hypervisor"
	"banger/internal/hypervisor/qemu/qmp"
)

// The descriptors that QEMU inherits first, in the order of host.Command.Files.
const (
	fdControl = 3
	fdAgent   = 4
)

// launch is what one QEMU is started with: descriptors by number, and where its memory comes from.
type launch struct {
	files []*os.File
	// memory is the id of the memory backend: it tells a later daemon whether the guest was thawed, and on what.
	memory string
	// image is the file that the memory maps privately; empty for memory that begins as zeros.
	image string
	tap   int
	// state is the descriptor of device state to load; 0 for a cold boot.
	state int
}

// hand adds a descriptor and says which it will be.
func (l *launch) hand(f *os.File) int {
	l.files = append(l.files, f)
	return 2 + len(l.files)
}

// Ids of memory backends.
const (
	memoryCold   = "mem"  // a cold boot
	memoryThawed = "mem-" // followed by the id of the image, in hex; by nothing where there is none
)

// sandbox is QEMU's own seccomp filter. It also sets no_new_privs. -runas dies of it,
// so QEMU is started under its uid already.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// tbSizeMiB is the buffer for translated code; the default reserves 1 GiB per VM.
const tbSizeMiB = 128

// arguments is QEMU's command line for m. Every value that holds a path goes in as
// JSON, or with its commas doubled.
func arguments(m *hypervisor.Machine, f *facts, l *launch) ([]string, error) {
	mem := strconv.FormatInt(m.MemoryBytes>>20, 10) + "M"
	args := []string{
		"-name", "guest=" + escape(m.ID),
		"-nodefaults", "-no-user-config", "-display", "none",
		"-sandbox", sandbox,
		// The guest runs when the daemon has written down that it exists.
		"-S",
		"-machine", machineType(f) + ",memory-backend=" + l.memory,
		"-cpu", cpuModel(f),
		"-smp", strconv.Itoa(m.CPUs),
		"-m", mem,
		"-object", memoryBackend(l, mem),
		// Device state is saved and loaded without the section that only a migration has.
		"-global", "migration.send-configuration=off",
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
		a, err := driveArgs(i, d)
		if err != nil {
			return nil, err
		}
		args = append(args, a...)
	}
	if m.NIC != nil {
		args = append(args, nicArgs(m.NIC, l)...)
	}
	if l.state != 0 {
		args = append(args, "-incoming", "defer")
	}
	return args, nil
}

// memoryBackend: private in any case, so that what a guest writes is its own.
func memoryBackend(l *launch, size string) string {
	if l.image == "" {
		return "memory-backend-ram,id=" + l.memory + ",size=" + size + ",reserve=off"
	}
	return "memory-backend-file,id=" + l.memory + ",size=" + size + ",reserve=off,share=off,mem-path=" + escape(l.image)
}

// machineType leaves out what this QEMU does not know. Without the PIT an idle guest
// costs half the CPU; without PIC or RTC a cold boot takes two seconds longer.
func machineType(f *facts) string {
	parts := []string{"microvm"}
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
// reboot after a panic, and Linux then jumped into a firmware that cannot run twice. KVM hands a triple fault to QEMU on any
// CPU, and QEMU resets; there is no keyboard controller to do it. A kernel that has panicked reboots, instead of spinning for ever.
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

// node is the name of drive i's first block node; layers put on top have names of their own.
func node(i int) string { return "d" + strconv.Itoa(i) }

// device is the name of drive i's device.
func device(i int) string { return "v" + node(i) }

func driveArgs(i int, d hypervisor.Drive) ([]string, error) {
	dev := map[string]any{"driver": "virtio-blk-device", "id": device(i), "drive": node(i), "serial": d.Serial}
	if !d.ReadOnly {
		// A full host disk pauses the guest instead of failing its writes; its flushes are the host's fdatasync.
		dev["werror"], dev["write-cache"] = "enospc", "on"
	}
	b, err := json.Marshal(blockNode(node(i), d))
	if err != nil {
		return nil, err
	}
	v, err := json.Marshal(dev)
	if err != nil {
		return nil, err
	}
	return []string{"-blockdev", string(b), "-device", string(v)}, nil
}

// blockNode describes a drive's file to QEMU. Said of the layer alone, "read-only" holds for its file too, so that both change
// when a new layer is put on top: said of both, QEMU would later open the file for writing again, and fail where it is sealed.
func blockNode(name string, d hypervisor.Drive) map[string]any {
	block := map[string]any{
		"driver": d.Format, "node-name": name, "read-only": d.ReadOnly,
		"file": map[string]any{"driver": "file", "node-name": qmp.FileNode(name), "filename": d.Path, "discard": "unmap"},
	}
	if !d.ReadOnly {
		block["discard"], block["detect-zeroes"] = "unmap", "unmap"
	}
	return block
}

// netDevice is the name that set_link knows both ends of the cable by.
const netDevice = "net0"

func nicArgs(n *hypervisor.NIC, l *launch) []string {
	netdev := fmt.Sprintf("tap,id=net0,fd=%d", l.tap)
	if n.Tap == nil {
		netdev = "stream,id=net0,server=off,addr.type=unix,addr.path=" + escape(n.Socket)
	}
	// guest_announce: with it a thawed device that is told to announce itself no times (see load) has no timer for that any
	// more, and QEMU 7.2 dies of it (SIGSEGV in timer_del) when the guest resets the device: at its next reboot.
	return []string{"-netdev", netdev, "-device", "virtio-net-device,netdev=net0,guest_announce=off,mac=" + n.MAC}
}

// escape doubles commas, as QEMU's option syntax wants them.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
