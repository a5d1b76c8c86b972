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
// are those of the guest's pieces of memory. With image they map a file, one piece after the other; else they map nothing. A process that
// has been broken into can only lie about itself.
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
	for _, size := range sizes {
		at, err := pick(found, size)
		if err != nil {
			return r, fmt.Errorf("process %d has %w", p.PID, err)
		}
		r.parts = append(r.parts, part{offset: r.size, size: size, base: at})
		r.size += size
	}
	return r, nil
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

// pick takes the one mapping of a size out of found.
func pick(found []mapping, size int64) (uint64, error) {
	at := -1
	for n, m := range found {
		if int64(m.end-m.start) != size {
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
	base := found[at].start
	found[at].end = base
	return base, nil
}
