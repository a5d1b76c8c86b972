package initramfs

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"banger/api/agentapi"
)

// module is a boot module with the path of its file on the host.
type module struct {
	agentapi.BootModule
	path string
}

// tree is what a lib/modules/VERSION directory says.
type tree struct {
	files   map[string]string   // module name → path
	builtin map[string]bool     // names in modules.builtin
	deps    map[string][]string // name → names, from modules.dep; nil without that file
	aliases map[string][]string // name → aliases, from modules.alias; nil without that file
}

// resolveModules returns the wanted modules and all they depend on, each after its
// dependencies. A name ending in "?" may be missing.
func resolveModules(dir string, wanted []string) ([]module, error) {
	t, err := readTree(dir)
	if err != nil {
		return nil, err
	}
	out := []module{}
	at := map[string]int{} // name → index in out; -1 while its dependencies are visited
	var visit func(name string, chain []string) (bool, error)
	visit = func(name string, chain []string) (bool, error) {
		if t.builtin[name] {
			return false, nil
		}
		if i, seen := at[name]; seen {
			if i < 0 {
				return false, fmt.Errorf("kernel modules depend on each other in a circle: %s", strings.Join(append(chain, name), " → "))
			}
			return true, nil
		}
		file, ok := t.files[name]
		if !ok {
			return false, fmt.Errorf("kernel in %s has no module %s: %w", dir, name, fs.ErrNotExist)
		}
		info, err := t.info(name, file)
		if err != nil {
			return false, err
		}
		at[name] = -1
		m := module{path: file, BootModule: agentapi.BootModule{
			Name: name, File: filepath.Base(file), Deps: []string{}, Virtio: virtioTypes(info.aliases)}}
		for i, dep := range append(info.deps, info.soft...) {
			loaded, err := visit(dep, append(chain, name))
			if i >= len(info.deps) && errors.Is(err, fs.ErrNotExist) {
				continue // a soft dependency
			}
			if err != nil {
				return false, err
			}
			if loaded {
				m.Deps = append(m.Deps, dep)
			}
		}
		at[name] = len(out)
		out = append(out, m)
		return true, nil
	}
	for _, w := range wanted {
		name, optional := strings.CutSuffix(w, "?")
		loaded, err := visit(name, nil)
		if err != nil && !(optional && errors.Is(err, fs.ErrNotExist)) {
			return nil, err
		}
		if loaded {
			out[at[name]].Wanted = true
		}
	}
	return out, nil
}

func readTree(dir string) (*tree, error) {
	t := &tree{files: map[string]string{}, builtin: map[string]bool{}}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if name := moduleName(p); name != "" {
				t.files[name] = p
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read kernel modules: %w", err)
	}
	if _, err := eachLine(filepath.Join(dir, "modules.builtin"), func(line string) {
		t.builtin[moduleName(line)] = true
	}); err != nil {
		return nil, err
	}
	deps := map[string][]string{}
	found, err := eachLine(filepath.Join(dir, "modules.dep"), func(line string) {
		file, list, _ := strings.Cut(line, ":")
		for _, d := range strings.Fields(list) {
			deps[moduleName(file)] = append(deps[moduleName(file)], moduleName(d))
		}
	})
	if err != nil {
		return nil, err
	}
	if found {
		t.deps = deps
	}
	aliases := map[string][]string{}
	found, err = eachLine(filepath.Join(dir, "modules.alias"), func(line string) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "alias" {
			aliases[canonical(f[2])] = append(aliases[canonical(f[2])], f[1])
		}
	})
	if found {
		t.aliases = aliases
	}
	return t, err
}

// eachLine calls f for each line of a file; a missing file is no error and not found.
func eachLine(path string, f func(string)) (found bool, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read kernel modules: %w", err)
	}
	defer file.Close()
	sc := bufio.NewScanner(file)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		f(sc.Text())
	}
	if err := sc.Err(); err != nil {
		return true, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return true, nil
}

// moduleName is the name of the module in a file, empty if it is none.
func moduleName(path string) string {
	base := filepath.Base(path)
	for _, ext := range []string{".gz", ".xz", ".zst"} {
		base = strings.TrimSuffix(base, ext)
	}
	name, ok := strings.CutSuffix(base, ".ko")
	if !ok {
		return ""
	}
	return canonical(name)
}

func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }
