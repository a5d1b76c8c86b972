package image

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"banger/api"
	"banger/internal/image/initramfs"
)

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
