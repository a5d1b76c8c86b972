package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"banger/internal/host"

	"banger/internal/disk"
)

// makeModules makes the modules' disk, whose root directory holds VERSION/, and beside it
// boot/VERSION with what the initramfs needs of them.
func (s *Service) makeModules(ctx context.Context, version, modules, work, object, to string) (err error) {
	tree, base := filepath.Join(work, "tree"), filepath.Join(work, "base")
	free, err := disk.Free(work)
	if err != nil {
		return err
	}
	u, err := newUnpacker(tree, free)
	if err != nil {
		return diskError(err)
	}
	defer func() { err = errors.Join(err, u.close()) }()
	u.owner = func(int, int) (int, int) { return 0, 0 }
	if err := u.putDir(version, 0o755, s.Now()); err != nil {
		return err
	}
	if modules != "" {
		if err := s.takeModules(ctx, u, version, modules); err != nil {
			return err
		}
		if err := s.depmod(ctx, u, version, work, base, tree); err != nil {
			return err
		}
	}
	if err := bootModules(ctx, s, filepath.Join(tree, version), filepath.Join(object, "boot", version)); err != nil {
		return err
	}
	return s.makeDisk(ctx, u, tree, to, diskSpec{sealed: true, label: "banger-modules"})
}

// takeModules copies lib/modules/VERSION. The links "build" and "source" lead to headers that are not there.
func (s *Service) takeModules(ctx context.Context, u *unpacker, version, modules string) error {
	root, err := os.OpenRoot(modules)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := unpackDir(ctx, u, root, version, func(int64) {}); err != nil {
		return err
	}
	for _, link := range []string{"build", "source"} {
		if err := u.remove(path.Join(version, link)); err != nil {
			return err
		}
	}
	return nil
}

// depmod makes the indexes that modprobe in the guest reads, where the package has none: Debian's
// are made when a kernel is installed, and ours never is. Every name comes from the kernel's package.
func (s *Service) depmod(ctx context.Context, u *unpacker, version, work, base, tree string) error {
	if u.exists(path.Join(version, "modules.dep.bin")) {
		return nil
	}
	program, env, err := s.findDepmod(ctx, work)
	if err != nil {
		return err
	}
	for _, lib := range []string{filepath.Join(base, "lib"), filepath.Join(base, "usr", "lib")} { // older and newer kmod
		if err := os.MkdirAll(lib, 0o700); err != nil {
			return diskError(err)
		}
		if err := os.Symlink(tree, filepath.Join(lib, "modules")); err != nil {
			return err
		}
	}
	if err := s.Host.Run(ctx, host.Command{Path: program, Args: []string{"-b", base, version}, Env: s.env(env...)}); err != nil {
		return s.runError(fmt.Errorf("cannot index kernel modules: %w", err))
	}
	made, err := filepath.Glob(filepath.Join(tree, version, "modules.*"))
	if err != nil {
		return err
	}
	for _, file := range made {
		name := path.Join(version, filepath.Base(file))
		if u.exists(name) {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := os.Remove(file); err != nil {
			return err
		}
		if err := u.putFile(name, 0o644, text, s.Now()); err != nil {
			return err
		}
	}
	if !u.exists(path.Join(version, "modules.dep.bin")) {
		return errors.New("depmod made no modules.dep.bin")
	}
	return nil
}

// findDepmod is the host's depmod, or else the one of Debian's packages, unpacked here.
func (s *Service) findDepmod(ctx context.Context, work string) (program string, env []string, err error) {
	if path, err := s.Host.LookPath("depmod"); err == nil {
		return path, nil, nil
	}
	dir := filepath.Join(work, "kmod")
	if err := s.fetch(ctx, dir, "kmod", "libkmod2"); err != nil {
		return "", nil, err
	}
	// kmod goes by the name that it is called by.
	program = filepath.Join(work, "depmod")
	for _, bin := range []string{"bin/kmod", "usr/bin/kmod"} {
		if _, err := os.Stat(filepath.Join(dir, "root", bin)); err == nil {
			libs, err := filepath.Glob(filepath.Join(dir, "root", "*", "*-linux-gnu"))
			if err != nil {
				return "", nil, err
			}
			more, err := filepath.Glob(filepath.Join(dir, "root", "usr", "lib", "*-linux-gnu"))
			if err != nil {
				return "", nil, err
			}
			return program, []string{"LD_LIBRARY_PATH=" + strings.Join(append(libs, more...), ":")}, os.Symlink(filepath.Join(dir, "root", bin), program)
		}
	}
	return "", nil, errors.New("the package kmod has no kmod in it")
}
