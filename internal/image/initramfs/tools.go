package initramfs

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"banger/api"
	"banger/api/agentapi"
)

// addTools puts the programs, their shared libraries and their loader into the
// archive. They must all use one loader.
func addTools(a *archive, tools []string) error {
	loader := ""
	libs := map[string]string{} // soname → path
	for _, tool := range tools {
		interp, err := closure(tool, libs)
		if errors.Is(err, fs.ErrNotExist) {
			return api.Errorf(api.CodeMissing, "cannot add %s to initramfs: %w", tool, err).WithHint("sudo apt-get install e2fsprogs")
		}
		if err != nil {
			return fmt.Errorf("cannot add %s to initramfs: %w", tool, err)
		}
		if interp != "" && loader != "" && interp != loader {
			return fmt.Errorf("cannot add %s to initramfs: its loader is %s, that of others %s", tool, interp, loader)
		}
		if interp != "" {
			loader = interp
		}
		if err := addFile(a, path.Join(agentapi.InitramfsTools, filepath.Base(tool)), tool, 0o755); err != nil {
			return err
		}
	}
	if loader != "" {
		delete(libs, filepath.Base(loader))
		if err := addFile(a, path.Join(agentapi.InitramfsTools, agentapi.ToolLoader), loader, 0o755); err != nil {
			return err
		}
	}
	for _, soname := range slices.Sorted(maps.Keys(libs)) {
		name := path.Join(agentapi.InitramfsTools, agentapi.ToolLibraries, soname)
		if err := addFile(a, name, libs[soname], 0o755); err != nil {
			return err
		}
	}
	return nil
}

// closure adds to libs every library that the program file needs, and returns the
// path of its loader, empty for a static program.
func closure(file string, libs map[string]string) (interp string, err error) {
	f, err := elf.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			data := make([]byte, p.Filesz)
			if _, err := p.ReadAt(data, 0); err != nil {
				return "", fmt.Errorf("cannot read its loader's name: %w", err)
			}
			interp = strings.TrimRight(string(data), "\x00")
		}
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return "", fmt.Errorf("cannot read its libraries: %w", err)
	}
	for _, soname := range needed {
		if _, have := libs[soname]; have {
			continue
		}
		lib, err := findLibrary(soname, f.Machine, f.Class)
		if err != nil {
			return "", err
		}
		libs[soname] = lib
		if _, err := closure(lib, libs); err != nil {
			return "", err
		}
	}
	return interp, nil
}

// libraryDirs are where ld.so(8) looks by itself, on multi-arch and other distributions.
func libraryDirs() []string {
	return []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu",
		"/usr/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}
}

func findLibrary(soname string, machine elf.Machine, class elf.Class) (string, error) {
	for _, dir := range libraryDirs() {
		p := filepath.Join(dir, soname)
		if _, err := os.Stat(p); err != nil {
			continue
		}
		f, err := elf.Open(p)
		if err != nil {
			continue // a linker script, for one
		}
		fits := f.Machine == machine && f.Class == class
		f.Close()
		if fits {
			return p, nil
		}
	}
	return "", fmt.Errorf("no library %s: %w", soname, fs.ErrNotExist)
}
