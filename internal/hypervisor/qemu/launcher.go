package qemu

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/durable"
	"banger/internal/hypervisor/memory"
)

// launcherProgram is built from launcher/launcher.S, which says what it does. It costs a quarter of a millisecond.
//
//go:embed launcher/launcher.elf
var launcherProgram []byte

// yamaScope is the kernel's Documentation/admin-guide/LSM/Yama.rst: 0 classic, 1 children only, 2 root only, 3 nobody. It is
// empty where there is no Yama.
func yamaScope() string {
	b, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// launcher is the program to start QEMU by; empty where QEMU is started itself.
func (h *Hypervisor) launcher(uid int) (string, error) {
	// The memory of a VMM with a uid of its own is opened by somebody who may.
	if !h.launched || uid != 0 && uid != os.Geteuid() {
		return "", nil
	}
	path := h.paths.Launcher()
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, launcherProgram) {
		return path, nil
	}
	if err := durable.WriteFile(path, launcherProgram, 0o700); err != nil {
		return "", fmt.Errorf("cannot write the launcher: %w", err)
	}
	return path, nil
}

// readable makes sure, while a failure costs nothing yet, that the guest's memory can be read.
func readable(r memory.Region) error {
	err := r.Read([]memory.Run{{Length: memory.PageSize}}, make([]byte, memory.PageSize))
	if errors.Is(err, unix.EPERM) {
		e := api.Errorf(api.CodeUnsupported, "this host lets no program read another's memory, so VMs cannot be frozen: %w", err)
		if scope := yamaScope(); scope != "" && scope != "0" {
			e = api.Errorf(api.CodeUnsupported, "this host lets no program read another's memory (kernel.yama.ptrace_scope is %s), so VMs cannot be frozen: %w", scope, err).
				WithHint("sudo sysctl kernel.yama.ptrace_scope=1")
		}
		return e
	}
	return err
}
