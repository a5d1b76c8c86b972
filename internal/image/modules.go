package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"banger/api"
	"banger/internal/host"
	"banger/internal/image/initramfs"
)

// makeModules makes the modules' disk, whose root directory holds VERSION/, and beside it
// boot/VERSION with what the initramfs needs of them.
func (s *Service) makeModules(ctx context.Context, version, modules, work, object, disk string) error {
	tree, base := filepath.Join(work, "tree"), filepath.Join(work, "base")
	free, err := freeBytes(work)
	if err != nil {
		return err
	}
	u, err := newUnpacker(tree, free)
	if err != nil {
		return diskError(err)
	}
	defer u.close()
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
	return s.makeDisk(ctx, u, tree, disk, diskSpec{sealed: true, label: "banger-modules"})
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

// bootModules keeps what initramfs.Build wants to see of lib/modules/VERSION: the modules that it
// loads by default with all they depend on, uncompressed, and the indexes.
func bootModules(ctx context.Context, s *Service, from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return diskError(err)
	}
	index, err := readModulesDep(filepath.Join(from, "modules.dep"))
	if err != nil {
		return err
	}
	for _, name := range []string{"modules.dep", "modules.alias", "modules.builtin", "modules.softdep"} {
		f, err := os.Open(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(copyFile(filepath.Join(to, name), f), f.Close()); err != nil {
			return err
		}
	}
	for _, file := range index.closure(initramfs.DefaultModules()) {
		if err := s.bootModule(ctx, filepath.Join(from, file), filepath.Join(to, file)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) bootModule(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return diskError(err)
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, done, err := s.decompress(ctx, f)
	if err != nil {
		return err
	}
	base, _, _ := strings.Cut(to, ".ko")
	err = copyFile(base+".ko", plain)
	if err == nil {
		_, err = io.Copy(io.Discard, plain)
	}
	return errors.Join(err, done())
}

// dependencies is modules.dep: module name → its file, and file → all files it needs.
type dependencies struct {
	files map[string]string
	needs map[string][]string
}

func readModulesDep(file string) (dependencies, error) {
	d := dependencies{files: map[string]string{}, needs: map[string][]string{}}
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return d, nil
	}
	if err != nil {
		return d, err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		name, rest, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		needs := strings.Fields(rest)
		for _, p := range append(needs, name) {
			if !filepath.IsLocal(p) {
				return d, api.Errorf(api.CodeInvalid, "%s names %q, which is outside of it", file, p)
			}
		}
		base, _, _ := strings.Cut(path.Base(name), ".ko")
		d.files[strings.ReplaceAll(base, "-", "_")] = name
		d.needs[name] = needs
	}
	return d, nil
}

// closure is the files of the named modules and of all they need. One that is not there is built
// in, or optional: initramfs.Build decides.
func (d dependencies) closure(names []string) []string {
	seen := map[string]bool{}
	var out []string
	add := func(file string) {
		if !seen[file] {
			seen[file] = true
			out = append(out, file)
		}
	}
	for _, name := range names {
		file, ok := d.files[strings.TrimSuffix(name, "?")]
		if !ok {
			continue
		}
		add(file)
		for _, need := range d.needs[file] {
			add(need)
		}
	}
	return out
}
