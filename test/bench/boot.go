package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// hello is what /init prints on the console of bare QEMU.
const hello = "bare-qemu-is-up"

// powerOff is /init of bare QEMU's guest.
func powerOff() {
	fmt.Println(hello)
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF) // nothing is left to do if it fails
	select {}
}

// bareBoot boots what a running VM runs, less disks, network and agent: the floor under any boot.
type bareBoot struct {
	b    *bench
	argv []string
}

func (b *bench) newBareBoot(name string) (*bareBoot, error) {
	var vm struct{ ID string }
	if err := b.json(&vm, "show", "--json", name); err != nil {
		return nil, err
	}
	_, argv, err := vmmOf(vm.ID)
	if err != nil {
		return nil, err
	}
	initrd, err := b.initrd()
	if err != nil {
		return nil, err
	}
	args := []string{argv[0], "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", "-initrd", initrd}
	for i := 1; i+1 < len(argv); i++ {
		switch argv[i] {
		case "-machine", "-cpu", "-smp", "-m", "-kernel", "-append", "-accel", "-object":
			if argv[i] == "-object" && !strings.Contains(argv[i+1], "id=mem") {
				continue
			}
			args = append(args, argv[i], argv[i+1])
		}
	}
	return &bareBoot{b, args}, nil
}

// boot returns when /init has spoken.
func (t *bareBoot) boot() error {
	cmd := exec.CommandContext(t.b.ctx, t.argv[0], t.argv[1:]...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	limit := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer limit.Stop()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), hello) {
			return nil
		}
	}
	return errors.New("the guest ended without a word")
}

// initrd holds this program as /init.
func (b *bench) initrd() (string, error) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.dir, "i")
	for _, d := range []string{dir, filepath.Join(dir, "dev")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return "", err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "init"), self, 0o755); err != nil {
		return "", err
	}
	cmd := exec.Command("busybox", "cpio", "-o", "-H", "newc")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader("dev\ninit\n")
	archive, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("cpio: %w", err)
	}
	path := filepath.Join(b.dir, "initrd")
	return path, os.WriteFile(path, archive, 0o644)
}
