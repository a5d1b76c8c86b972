package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"banger/api/agentapi"
)

// loadModules loads the boot modules that this machine needs: those without a device
// type first (the bus), then the drivers of the devices that are there. Loading costs
// milliseconds each under emulation, so nothing is loaded for a device that is absent.
func loadModules(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, agentapi.ModuleIndex))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the list of modules: %w", err)
	}
	var mods []agentapi.BootModule
	if err := json.Unmarshal(data, &mods); err != nil {
		return fmt.Errorf("cannot read the list of modules: %w", err)
	}
	l := &loader{dir: dir, byName: map[string]agentapi.BootModule{}, loaded: map[string]bool{}}
	for _, m := range mods {
		l.byName[m.Name] = m
	}
	for _, m := range mods {
		if m.Wanted && len(m.Virtio) == 0 {
			if err := l.load(m.Name); err != nil {
				return err
			}
		}
	}
	present := virtioDevices("/sys/bus/virtio/devices")
	for _, m := range mods {
		if m.Wanted && slices.ContainsFunc(m.Virtio, func(id uint32) bool { return slices.Contains(present, id) }) {
			if err := l.load(m.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// loader loads modules once, after what they depend on.
type loader struct {
	dir    string
	byName map[string]agentapi.BootModule
	loaded map[string]bool
}

func (l *loader) load(name string) error {
	m, ok := l.byName[name]
	if !ok || l.loaded[name] {
		return nil
	}
	l.loaded[name] = true
	for _, d := range m.Deps {
		if err := l.load(d); err != nil {
			return err
		}
	}
	f, err := os.Open(filepath.Join(l.dir, m.File))
	if err != nil {
		return fmt.Errorf("cannot load module %s: %w", name, err)
	}
	defer f.Close()
	return finishLoad(f, name)
}

// finishLoad gives a module's file to the kernel. One that is there already is no error.
func finishLoad(f *os.File, name string) error {
	flags := 0
	if !strings.HasSuffix(f.Name(), ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("cannot load module %s: %w", name, err)
	}
	return nil
}

// virtioDevices are the types of the devices on the virtio bus.
func virtioDevices(dir string) []uint32 {
	var out []uint32
	names, _ := filepath.Glob(filepath.Join(dir, "*", "device"))
	for _, n := range names {
		data, _ := os.ReadFile(n)
		id, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(string(data)), "0x"), 16, 32)
		if err == nil {
			out = append(out, uint32(id))
		}
	}
	return out
}
