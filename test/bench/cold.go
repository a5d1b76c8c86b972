package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// few is how often things are done that take seconds and have no bound.
const few = 3

// cold is what has no bound: boots, a stop, and work in the guest beside the host's.
func (b *bench) cold() ([]line, error) {
	if err := b.banger("run", "-d", "--name", "x", "--cold", "--cpus", "1", "--memory", "256M"); err != nil {
		return nil, err
	}
	bare, err := b.newBareBoot("x")
	if err != nil {
		return nil, err
	}
	boots, err := b.alternate(few,
		timed(func(int) error {
			return b.banger("run", "--rm", "--cold", "--cpus", "1", "--memory", "256M", "--", "true")
		}),
		timed(func(int) error { return bare.boot() }))
	if err != nil {
		return nil, err
	}
	compile, err := b.compile("x")
	if err != nil {
		return nil, err
	}
	var stops []float64
	if _, err := b.alternate(few, func(round int) (float64, error) {
		ms, err := timed(func(int) error { return b.banger("stop", "x") })(round)
		if round >= 0 {
			stops = append(stops, ms)
		}
		return 0, errors.Join(err, b.banger("start", "x"))
	}); err != nil {
		return nil, err
	}
	systemd := []string{"run", "--rm", "--image", "debian", "--memory", "512M"}
	debian, err := b.alternate(few, timed(func(int) error { return b.banger(append(systemd, "--", "true")...) }))
	if err != nil {
		return nil, err
	}
	cold, err := timed(func(int) error { return b.banger(append(systemd, "--cold", "--", "true")...) })(0)
	if err != nil {
		return nil, err
	}
	return []line{
		{What: "run --rm --cold -- true", Beside: "bare QEMU, same kernel, to its /init", Ours: boots[0], Theirs: boots[1]},
		{What: "run --rm --image debian -- true (systemd)", Beside: "the same, --cold", Ours: debian[0], Theirs: []float64{cold}},
		{What: "a compile of 5,000 lines in the guest", Beside: "on the host", Ours: compile[0], Theirs: compile[1]},
		{What: "stop", Ours: stops},
	}, b.banger("rm", "-f", "x")
}

// compile runs Go's compiler in a guest and on the host.
func (b *bench) compile(name string) ([][]float64, error) {
	source, err := b.source()
	if err != nil {
		return nil, err
	}
	compiler, err := compilerPath()
	if err != nil {
		return nil, err
	}
	for from, to := range map[string]string{compiler: "/tmp/compile", source: "/tmp/big.go"} {
		if err := b.banger("cp", from, name+":"+to); err != nil {
			return nil, err
		}
	}
	return b.alternate(few,
		timed(func(int) error {
			return b.banger("exec", name, "--", "/tmp/compile", "-p", "main", "-o", "/tmp/o", "/tmp/big.go")
		}),
		timed(func(int) error {
			return exec.Command(compiler, "-p", "main", "-o", filepath.Join(b.dir, "o"), source).Run()
		}))
}

// source writes a program of 5,000 lines that imports nothing, so that the compiler alone is enough.
func (b *bench) source() (string, error) {
	var s strings.Builder
	s.WriteString("package main\n\nfunc main() {}\n")
	for i := range 1000 {
		fmt.Fprintf(&s, "\nfunc f%d(a, b int) int {\n\tfor i := 0; i < a; i++ { b += i*%d ^ b }\n\treturn b\n}\n", i, i)
	}
	path := filepath.Join(b.dir, "big.go")
	return path, os.WriteFile(path, []byte(s.String()), 0o600)
}

// compilerPath is Go's own compiler: one static program, the same in the guest as here.
func compilerPath() (string, error) {
	out, err := exec.Command("go", "tool", "-n", "compile").Output()
	if err != nil {
		return "", fmt.Errorf("go tool -n compile: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
