package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// podman runs containers of the minimal image's root, with the least that they can be given: no network, no cgroups.
type podman struct {
	global, options []string
	root            string
}

// newPodman unpacks the image's root. The file is sealed and banger's own: it is read without being mounted.
func (b *bench) newPodman() (*podman, error) {
	var image struct{ Digest string }
	if err := b.json(&image, "image", "show", "--json", "minimal"); err != nil {
		return nil, err
	}
	p := &podman{
		root:    filepath.Join(b.dir, "root"),
		global:  []string{"--root", filepath.Join(b.dir, "p"), "--runroot", filepath.Join(b.dir, "pr")},
		options: []string{"--network=none", "--cgroups=disabled", "--ulimit", "nofile=20000:20000", "--ulimit", "nproc=1000:1000"},
	}
	if _, err := os.Stat(p.root); err == nil {
		return p, nil
	}
	if err := os.Mkdir(p.root, 0o755); err != nil { //nolint:gosec // a container's root
		return nil, err
	}
	disk := filepath.Join(b.state, "images", image.Digest, "root.ext4")
	if out, err := exec.Command("debugfs", "-R", "rdump / "+p.root, disk).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("debugfs: %w: %s", err, out)
	}
	if _, err := os.Lstat(filepath.Join(p.root, "bin", "true")); err != nil {
		return nil, fmt.Errorf("the image's root was not unpacked: %w", err)
	}
	return p, nil
}

func (p *podman) do(args ...string) error {
	out, err := exec.Command("podman", append(append([]string{}, p.global...), args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("podman %v: %w: %s", args, err, out)
	}
	return nil
}

// run is `podman run` of a command in the root.
func (p *podman) run(first []string, command ...string) error {
	args := append(append([]string{"run"}, first...), p.options...)
	return p.do(append(append(args, "--rootfs", p.root), command...)...)
}

// with runs fn while the container "y" runs.
func (p *podman) with(fn func() error) error {
	if err := p.run([]string{"-d", "--name", "y"}, "sleep", "100000"); err != nil {
		return err
	}
	err := fn()
	return errors.Join(err, p.do("rm", "-f", "-t", "0", "y"))
}
