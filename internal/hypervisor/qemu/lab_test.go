package qemu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"banger/internal/image/initramfs"
	"banger/internal/loud"
)

// lab is what the guests of these tests boot from: made once, since it takes some seconds.
type lab struct {
	once                      sync.Once
	err                       error
	dir                       string
	kernel, initramfs, rootfs string
}

// theLab is filled by the first test that needs it.
var theLab lab

func TestMain(m *testing.M) {
	code := m.Run()
	if theLab.dir != "" {
		_ = os.RemoveAll(theLab.dir)
	}
	os.Exit(code)
}

// errNoLab is why machine tests cannot run here.
var errNoLab = errors.New("BANGER_TEST_KERNEL_DIR names no directory with vmlinuz and lib/modules, and make test has prepared none")

// make uses the kernel in BANGER_TEST_KERNEL_DIR, or the one that scripts/machine-state has prepared.
func (l *lab) make() error {
	source := os.Getenv("BANGER_TEST_KERNEL_DIR")
	if source == "" {
		prepared, _ := filepath.Glob("../../../.cache/test-state/kernels/*/vmlinuz")
		if len(prepared) == 0 {
			return errNoLab
		}
		source = filepath.Dir(prepared[0])
	}
	modules, _ := filepath.Glob(filepath.Join(source, "lib/modules/*"))
	sealed, _ := filepath.Glob(filepath.Join(source, "boot/*/modules.dep"))
	for _, dep := range sealed { // an object of package image
		modules = append(modules, filepath.Dir(dep))
	}
	kernels, _ := filepath.Glob(filepath.Join(source, "vmlinuz*"))
	if len(modules) != 1 || len(kernels) != 1 {
		return fmt.Errorf("%s holds %d kernels and modules of %d versions", source, len(kernels), len(modules))
	}
	var err error
	if l.dir, err = os.MkdirTemp("", "bl"); err != nil {
		return err
	}
	l.name(l.dir)
	agent := filepath.Join(l.dir, "agent")
	return errors.Join(
		// VMMs have another uid.
		os.Chmod(l.dir, 0o755), //nolint:gosec // as above
		command("cp", "--no-preserve=mode", kernels[0], l.kernel),
		makeAgent(agent),
		l.makeInitramfs(agent, modules[0]),
		l.makeRoot(),
	)
}

// makeAgent builds the agent, or copies the one that BANGER_TEST_AGENT names, where there is no compiler.
func makeAgent(at string) error {
	if built := os.Getenv("BANGER_TEST_AGENT"); built != "" {
		return command("cp", built, at)
	}
	return command("env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags=-s -w", "-o", at, "banger/cmd/banger-agent")
}

func (l *lab) name(dir string) {
	l.kernel, l.initramfs, l.rootfs = filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initramfs"), filepath.Join(dir, "root")
}

func (l *lab) makeInitramfs(agent, modules string) error {
	f, err := os.Create(l.initramfs)
	if err != nil {
		return err
	}
	defer f.Close()
	return initramfs.Build(f, initramfs.Spec{Agent: agent, ModulesDir: modules})
}

// makeRoot makes a root with a shell and nothing else.
func (l *lab) makeRoot() error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	tree := filepath.Join(l.dir, "tree")
	for _, d := range []string{"bin", "etc", "root", "home", "lib"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			return err
		}
	}
	if err := command("cp", busybox, filepath.Join(tree, "bin/busybox")); err != nil {
		return err
	}
	for _, name := range strings.Fields("sh cat echo tr dd sync sleep tail") {
		if err := os.Symlink("busybox", filepath.Join(tree, "bin", name)); err != nil {
			return err
		}
	}
	return errors.Join(
		command("truncate", "-s", "64M", l.rootfs),
		command("mke2fs", "-q", "-t", "ext4", "-d", tree, "-E", "root_owner=0:0", l.rootfs),
	)
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// needLab makes the lab once for all tests.
func needLab(t testing.TB) *lab {
	t.Helper()
	for _, p := range []string{"mke2fs", "busybox"} {
		if _, err := exec.LookPath(p); err != nil {
			loud.Skip(t, "%v", err)
		}
	}
	theLab.once.Do(func() {
		if dir := os.Getenv("BANGER_TEST_LAB"); dir != "" { // made by the test that has started this one
			theLab.name(dir)
			return
		}
		theLab.err = theLab.make()
	})
	if errors.Is(theLab.err, errNoLab) {
		loud.Skip(t, "%v", theLab.err)
	}
	if theLab.err != nil {
		t.Fatal(theLab.err)
	}
	return &theLab
}
