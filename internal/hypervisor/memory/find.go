package memory

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"banger/internal/host"
)

// Find looks for the memory of a guest whose VMM does not tell where it has it: private mappings, one for each of sizes, which
// are those of the guest's pieces of memory. With image they map a file, one piece after the other; else they map nothing, and
// several may be one mapping, of which the first piece is the upper end: the caller makes sure of that. A process that has been broken into can
// only lie about itself.
func Find(h host.Files, p host.Process, sizes []int64, image bool) (Region, error) {
	r := Region{pid: p.PID, Image: image}
	m, err := h.OpenMemory(p)
	if err != nil {
		return r, err
	}
	var maps io.Reader = m.Maps
	if m != (host.Memory{}) {
		defer m.Close()
		r.door = func() (host.Memory, error) { return h.OpenMemory(p) }
	} else {
		f, err := os.Open(fmt.Sprintf("/proc/%d/maps", p.PID))
		if err != nil {
			return r, err
		}
		defer f.Close()
		maps = f
	}
	found, err := privateMappings(maps, image)
	if err != nil {
		return r, err
	}
	if r.parts, err = place(found, sizes, image); err != nil {
		return r, fmt.Errorf("process %d has %w", p.PID, err)
	}
	for _, p := range r.parts {
		r.size += p.size
	}
	return r, nil
}

// place finds the pieces among the mappings.
func place(found []mapping, sizes []int64, image bool) ([]part, error) {
	parts := make([]part, len(sizes))
	whole := int64(0)
	for n, size := range sizes {
		parts[n] = part{offset: whole, size: size}
		whole += size
	}
	if !image && len(parts) > 1 {
		// Pieces that are made one after the other lie one below the other, and the kernel makes one mapping of them.
		if base, err := pick(found, whole, nil); err == nil {
			for n := range parts {
				parts[n].base = base + uint64(whole-parts[n].offset-parts[n].size)
			}
			return parts, nil
		}
	}
	for n := range parts {
		var offset *int64
		if image {
			offset = &parts[n].offset
		}
		base, err := pick(found, parts[n].size, offset)
		if err != nil {
			return nil, err
		}
		parts[n].base = base
	}
	return parts, nil
}

// privateMappings are those that can be written and map a file, or none.
func privateMappings(maps io.Reader, image bool) ([]mapping, error) {
	var found []mapping
	for in := bufio.NewScanner(maps); in.Scan(); {
		m, err := parseMapping(in.Text())
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(m.perms, "rw") || !strings.HasSuffix(m.perms, "p") || (m.inode != "0") != image {
			continue
		}
		found = append(found, m)
	}
	return found, nil
}

// pick finds the one mapping of a size, of what is at an offset of its file unless that is nil.
func pick(found []mapping, size int64, offset *int64) (uint64, error) {
	at := -1
	for n, m := range found {
		if int64(m.end-m.start) != size || offset != nil && int64(m.offset) != *offset {
			continue
		}
		if at >= 0 {
			return 0, fmt.Errorf("two mappings of %d MiB, and one is the guest's memory", size>>20)
		}
		at = n
	}
	if at < 0 {
		return 0, fmt.Errorf("no mapping of %d MiB for the guest's memory", size>>20)
	}
	return found[at].start, nil
}
