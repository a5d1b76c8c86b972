package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"banger/internal/host"
	"banger/internal/host/local"
	"banger/internal/image/initramfs"
	"banger/internal/loud"
)

// Lab is what the real guests of a package's tests boot from: a kernel, banger's initramfs, and a root disk with a
// shell. It is made once, by the first test that needs it, since it takes some seconds. The zero value is ready for use.
type Lab struct {
	once                    sync.Once
	err                     error
	dir                     string
	kernel, initramfs, root string
	machines                atomic.Int32
}

// labDir names the environment variable with the lab of the test that has started this one.
const labDir = "BANGER_TEST_LAB"

// Main runs a package's tests and removes the lab after them.
func (l *Lab) Main(m *testing.M) int {
	code := m.Run()
	if l.dir != "" {
		_ = os.RemoveAll(l.dir)
	}
	return code
}

// Dir makes the lab, or skips the test for want of something to make it from.
func (l *Lab) Dir(t testing.TB) string {
	t.Helper()
	for _, p := range []string{"mke2fs", "busybox"} {
		if _, err := local.New().LookPath(p); err != nil {
			loud.Skip(t, "%v", err)
		}
	}
	l.once.Do(func() {
		if dir := os.Getenv(labDir); dir != "" {
			l.name(dir)
			return
		}
		l.err = l.make()
	})
	if errors.Is(l.err, errNoKernel) {
		loud.Skip(t, "%v", l.err)
	}
	if l.err != nil {
		t.Fatal(l.err)
	}
	return filepath.Dir(l.kernel)
}

// Environ is the environment of a test binary that is to use this lab.
func (l *Lab) Environ(t testing.TB) []string { return append(os.Environ(), labDir+"="+l.Dir(t)) }

var errNoKernel = errors.New("BANGER_TEST_KERNEL_DIR names no directory with vmlinuz and lib/modules, and make test has prepared none")

// make uses the kernel in BANGER_TEST_KERNEL_DIR, or the one that scripts/machine-state has prepared.
func (l *Lab) make() error {
	source := os.Getenv("BANGER_TEST_KERNEL_DIR")
	if source == "" {
		prepared, _ := filepath.Glob("../../../.cache/test-state/kernels/*/vmlinuz")
		if len(prepared) == 0 {
			return errNoKernel
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
		copyFile(kernels[0], l.kernel, 0o644),
		makeAgent(agent),
		l.makeInitramfs(agent, modules[0]),
		l.makeRoot(),
	)
}

func (l *Lab) name(dir string) {
	l.kernel, l.initramfs, l.root = filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initramfs"), filepath.Join(dir, "root")
}

// makeAgent builds the agent, or copies the one that BANGER_TEST_AGENT names, where there is no compiler.
func makeAgent(at string) error {
	if built := os.Getenv("BANGER_TEST_AGENT"); built != "" {
		return copyFile(built, at, 0o755)
	}
	return command(append(os.Environ(), "CGO_ENABLED=0"), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", at, "banger/cmd/banger-agent")
}

func (l *Lab) makeInitramfs(agent, modules string) error {
	f, err := os.Create(l.initramfs)
	if err != nil {
		return err
	}
	return errors.Join(initramfs.Build(f, initramfs.Spec{Agent: agent, ModulesDir: modules}), f.Close())
}

// makeRoot makes a root with a shell and nothing else.
func (l *Lab) makeRoot() error {
	busybox, err := local.New().LookPath("busybox")
	if err != nil {
		return err
	}
	tree := filepath.Join(l.dir, "tree")
	for _, d := range []string{"bin", "etc", "root", "home", "lib"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(busybox, filepath.Join(tree, "bin/busybox"), 0o755); err != nil {
		return err
	}
	for _, name := range strings.Fields("sh cat echo tr dd md5sum sync sleep tail") {
		if err := os.Symlink("busybox", filepath.Join(tree, "bin", name)); err != nil {
			return err
		}
	}
	return command(nil, "mke2fs", "-q", "-t", "ext4", "-d", tree, "-E", "root_owner=0:0", l.root, "64M")
}

// command runs a program with an environment (nil: a bare one).
func command(env []string, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return local.New().Run(ctx, host.Command{Path: program, Args: args, Env: env})
}

func copyFile(from, to string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
