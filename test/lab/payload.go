package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// payload is what a lab host is given: a tree, laid out as the project is, and a command to run in it.
type payload struct {
	tests, add, env []string
	command         []string
	debian          bool
	firecracker     string
}

// write makes the tar in work and returns its path. The project is the current directory.
func (p *payload) write(ctx context.Context, work string) (string, error) {
	tree := filepath.Join(work, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "bin"), 0o755); err != nil {
		return "", err
	}
	if err := p.words(tree); err != nil {
		return "", err
	}
	if err := p.state(tree); err != nil {
		return "", err
	}
	if err := p.programs(tree); err != nil {
		return "", err
	}
	for _, pkg := range p.tests {
		if err := buildTest(ctx, tree, pkg); err != nil {
			return "", err
		}
	}
	for _, what := range p.add {
		from, name, named := strings.Cut(what, "=")
		if !named {
			name = filepath.Base(from)
		}
		if err := place(from, filepath.Join(tree, name)); err != nil {
			return "", err
		}
	}
	path := filepath.Join(work, "payload.tar")
	// Written by tar(1), since it knows of holes: images are mostly holes. It ends with 1 where a file has "changed as we read it",
	// which a sealed image does whenever a test beside this gives it another name.
	var exit *exec.ExitError
	err := command(ctx, "", "tar", "--sparse", "--owner=0", "--group=0", "-C", tree, "-chf", path, ".")
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		return "", fmt.Errorf("cannot pack the payload: %w", err)
	}
	return path, os.RemoveAll(tree)
}

// words are the command and the environment, each ended by a NUL, for the host's init to read without a shell.
func (p *payload) words(tree string) error {
	env := append([]string{"LAB=1"}, p.env...)
	if err := os.WriteFile(filepath.Join(tree, "command"), nulls(p.command), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(tree, "env"), nulls(env), 0o644)
}

func nulls(words []string) []byte {
	var b []byte
	for _, w := range words {
		b = append(append(b, w...), 0)
	}
	return b
}

// programs: our own, and firecracker with its jailer where a directory is named.
func (p *payload) programs(tree string) error {
	built, err := filepath.Glob("bin/*")
	if err != nil {
		return err
	}
	for _, name := range built {
		switch filepath.Base(name) {
		case "banger-lint", "bench", "lab":
			continue
		}
		if err := place(name, filepath.Join(tree, name)); err != nil {
			return err
		}
	}
	if p.firecracker == "" {
		return nil
	}
	for _, name := range []string{"firecracker", "jailer"} {
		if err := place(filepath.Join(p.firecracker, name), filepath.Join(tree, "bin", name)); err != nil {
			return err
		}
	}
	return nil
}

// state carries the images and kernels that scripts/machine-state has prepared, as far as they are asked for.
func (p *payload) state(tree string) error {
	const prepared = ".cache/test-state"
	to := filepath.Join(tree, prepared)
	if _, err := os.Stat(filepath.Join(prepared, "stamp")); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := os.MkdirAll(filepath.Join(to, "images"), 0o755); err != nil {
		return err
	}
	for _, name := range []string{"banger.db", "stamp", "kernels"} {
		if err := place(filepath.Join(prepared, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	records, err := filepath.Glob(filepath.Join(prepared, "images/*/record.json"))
	if err != nil {
		return err
	}
	for _, path := range records {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var record struct{ Name string }
		if err := json.Unmarshal(text, &record); err != nil {
			return err
		}
		if record.Name == "debian" && !p.debian {
			continue
		}
		dir := filepath.Dir(path)
		if err := place(dir, filepath.Join(to, "images", filepath.Base(dir))); err != nil {
			return err
		}
	}
	return nil
}

// place puts a link to path into the tree; tar follows it.
func place(path, at string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if _, err := os.Stat(abs); err != nil {
		return fmt.Errorf("cannot carry %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	return os.Symlink(abs, at)
}

// buildTest compiles a package's tests without C, as NAME.test in the package's folder, beside its testdata. All that
// tests read of the project's tree beyond that must be named by --add.
func buildTest(ctx context.Context, tree, pkg string) error {
	dir := filepath.Clean(pkg)
	to := filepath.Join(tree, dir)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	binary := filepath.Join(to, filepath.Base(dir)+".test")
	if err := command(ctx, "CGO_ENABLED=0", "go", "test", "-c", "-o", binary, "./"+dir); err != nil {
		return fmt.Errorf("cannot build the tests of %s: %w", pkg, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "testdata")); err == nil {
		return place(filepath.Join(dir, "testdata"), filepath.Join(to, "testdata"))
	}
	return nil
}

// command runs a program; what it says on stderr is shown.
func command(ctx context.Context, env, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	if env != "" {
		cmd.Env = append(os.Environ(), env)
	}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}
