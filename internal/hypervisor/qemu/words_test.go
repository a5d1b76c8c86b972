package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/internal/hypervisor"
	"banger/internal/hypervisor/vmm"
)

func TestWordExit(t *testing.T) {
	t.Parallel()
	kill, abort, one := syscall.WaitStatus(9), syscall.WaitStatus(6), syscall.WaitStatus(1<<8)
	for want, e := range map[string]vmm.Exit{
		"killed by banger": {Killed: true, Known: true, Status: kill, OOM: true},
		"killed by the kernel: the host ran out of memory": {Known: true, Status: kill, OOM: true},
		"QEMU was ended by signal 9 (killed)":              {Known: true, Status: kill},
		"QEMU was ended by signal 6 (aborted): bad thing":  {Known: true, Status: abort, Words: "bad thing"},
		"QEMU ended with exit code 1: no such disk":        {Known: true, Status: one, Words: "no such disk"},
		"the guest powered off":                            {Known: true, Off: true},
		"QEMU ended":                                       {},
		"QEMU is gone; the kernel was killing processes because the host ran out of memory": {OOM: true},
	} {
		e.Program = program
		if got := e.Why(); got != want {
			t.Errorf("%+v: %q, want %q", e, got, want)
		}
	}
}

func TestLogTail(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "vmm.log")
	if err := os.WriteFile(path, []byte("of an earlier start\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := tailFrom(path)
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("qemu-system-x86_64: warning: TCG doesn't support requested feature: x\n\nqemu-system-x86_64: -blockdev {}: no disk\nlast\xff\n"); err != nil {
		t.Fatal(err)
	}
	if got := l.Lines(); got != "-blockdev {}: no disk; last?" {
		t.Errorf("%q", got)
	}
	if got := l.Last(); got != "last?" {
		t.Errorf("%q", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", path); err != nil {
		t.Fatal(err)
	}
	if got := l.Lines(); got != "" {
		t.Errorf("a symbolic link was followed: %q", got)
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	m := hypervisor.Machine{
		ID: "v1", Dir: "/state/a,b/v", CPUs: 2, MemoryBytes: 512 << 20, Kernel: "/k", Initramfs: "/i", Cmdline: "banger.init=none",
		Drives: []hypervisor.Drive{
			{Serial: "banger-root", Path: `/s/"a",b`, Format: "qcow2"},
			{Serial: "banger-modules", Path: "/m", Format: "raw", ReadOnly: true},
		},
		NIC: &hypervisor.NIC{MAC: "52:54:00:00:00:01", Socket: "/state/a,b/v/n"},
	}
	f := &facts{Accel: "tcg", TSCKHz: 2_596_096, Options: []string{"acpi", "pit"}}
	args, err := arguments(&m, f, &launch{memory: memoryCold})
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(args, "\n") + "\n"
	for _, want := range []string{
		"-S\n", "-machine\nmicrovm,acpi=on,pit=off,memory-backend=mem\n", "-accel\ntcg,tb-size=128\n", "-cpu\nmax,-erms,-fsrm\n",
		"memory-backend-ram,id=mem,size=512M,reserve=off\n", "file,id=console,path=/state/a,,b/v/console.log,append=on\n",
		"tsc_early_khz=2596096 banger.init=none\n", `"filename":"/s/\"a\",b"`, `"werror":"enospc"`, `"detect-zeroes":"unmap"`,
		"stream,id=net0,server=off,addr.type=unix,addr.path=/state/a,,b/v/n\n", "netdev=net0,guest_announce=off,mac=52:54:00:00:00:01\n",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	// A QEMU with another feature set gets no option that it does not know; a read-only disk none for writing.
	if strings.Contains(all, "suppress-vmdesc") {
		t.Error("an option that this QEMU does not know")
	}
	if strings.Count(all, "werror") != 1 || strings.Count(all, `"read-only":true`) != 1 {
		t.Errorf("the read-only drive: %s", all)
	}
	f = &facts{Accel: "kvm"}
	if args, err = arguments(&m, f, &launch{memory: memoryCold}); err != nil {
		t.Fatal(err)
	}
	all = strings.Join(args, "\n") + "\n"
	if !strings.Contains(all, "-accel\nkvm\n") || !strings.Contains(all, "-cpu\nhost\n") || strings.Contains(all, "tsc_early_khz") {
		t.Errorf("with KVM: %s", all)
	}
}
