package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// newBench makes a state directory with the prepared images in it.
func newBench(ctx context.Context) (*bench, error) {
	bin, err := filepath.Abs("bin")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "b")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o711); err != nil { // VMMs under uids of their own walk through it
		return nil, err
	}
	b := &bench{ctx: ctx, dir: dir, bin: bin, env: append(os.Environ(),
		"BANGER_STATE_DIR="+dir+"/s", "BANGER_CONFIG_DIR="+dir+"/c",
		"BANGER_IMAGE=minimal", "BANGER_MEMORY=256M", "BANGER_CPUS=1", "BANGER_DISK_SIZE=1G")}
	state := filepath.Join(dir, "s")
	if err := os.Mkdir(state, 0o711); err != nil {
		return nil, err
	}
	for _, part := range []string{"images", "kernels", "banger.db"} {
		from := filepath.Join(".cache/test-state", part)
		if out, err := exec.Command("cp", "-a", "--reflink=auto", "--sparse=always", from, state).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("no prepared images (scripts/machine-state makes them): %s", out)
		}
	}
	return b, nil
}

// close leaves nothing behind.
func (b *bench) close() {
	b.ctx = context.WithoutCancel(b.ctx)
	out, err := b.output("ps", "-aq")
	if ids := strings.Fields(string(out)); len(ids) > 0 {
		err = errors.Join(err, b.banger(append([]string{"rm", "-f"}, ids...)...))
	}
	if err := errors.Join(err, b.banger("daemon", "stop"), os.RemoveAll(b.dir)); err != nil {
		fmt.Fprintln(os.Stderr, "bench: cannot clean up:", err)
	}
}

// source writes a program of 5,000 lines that imports nothing, so that the compiler alone is enough.
func (b *bench) source() (string, error) {
	var s strings.Builder
	s.WriteString("package main\n\nfunc main() {}\n")
	for i := range 1000 {
		fmt.Fprintf(&s, "\nfunc f%d(a, b int) int {\n\tfor i := 0; i < a; i++ { b += i*%d ^ b }\n\treturn b\n}\n", i, i)
	}
	path := filepath.Join(b.dir, "big.go")
	return path, os.WriteFile(path, []byte(s.String()), 0o644)
}

// compilerPath is Go's own compiler: one static program, the same in the guest as here.
func compilerPath() (string, error) {
	out, err := exec.Command("go", "tool", "-n", "compile").Output()
	if err != nil {
		return "", fmt.Errorf("go tool -n compile: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
