package initramfs

import (
	"debug/elf"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// modinfo is what a module says of itself.
type modinfo struct {
	deps, soft, aliases []string
}

// info prefers the .modinfo section of the module itself, since a kernel package that
// was only unpacked has no modules.dep yet. A compressed module is not looked into:
// for it the files that depmod makes must be there.
func (t *tree) info(name, file string) (modinfo, error) {
	if strings.HasSuffix(file, ".ko") {
		return readModinfo(file)
	}
	if t.deps == nil || t.aliases == nil {
		return modinfo{}, fmt.Errorf("cannot resolve compressed module %s: no modules.dep and modules.alias; run depmod on its kernel", file)
	}
	return modinfo{deps: t.deps[name], aliases: t.aliases[name]}, nil
}

func readModinfo(file string) (modinfo, error) {
	f, err := elf.Open(file)
	if err != nil {
		return modinfo{}, fmt.Errorf("cannot read kernel module %s: %w", file, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return modinfo{}, fmt.Errorf("cannot read kernel module %s: no .modinfo section", file)
	}
	data, err := section.Data()
	if err != nil {
		return modinfo{}, fmt.Errorf("cannot read kernel module %s: %w", file, err)
	}
	var info modinfo
	for _, entry := range strings.Split(string(data), "\x00") {
		key, value, _ := strings.Cut(entry, "=")
		switch key {
		case "depends":
			for _, d := range strings.Split(value, ",") {
				if d != "" {
					info.deps = append(info.deps, canonical(d))
				}
			}
		case "softdep":
			info.soft = append(info.soft, softBefore(value)...)
		case "alias":
			info.aliases = append(info.aliases, value)
		}
	}
	return info, nil
}

// softBefore is the names after "pre:" in "pre: a b post: c".
func softBefore(s string) []string {
	var out []string
	pre := false
	for _, f := range strings.Fields(s) {
		switch {
		case strings.HasSuffix(f, ":"):
			pre = f == "pre:"
		case pre:
			out = append(out, canonical(f))
		}
	}
	return out
}

// virtioTypes are the device types in aliases such as "virtio:d00000002v*".
func virtioTypes(aliases []string) []uint32 {
	out := []uint32{}
	for _, a := range aliases {
		rest, ok := strings.CutPrefix(a, "virtio:d")
		if !ok || len(rest) < 8 {
			continue
		}
		if n, err := strconv.ParseUint(rest[:8], 16, 32); err == nil {
			out = append(out, uint32(n))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
