// Package memory reads and writes a guest's memory from outside, through the kernel's view of the VMM's
// process, and owns the files that frozen memory is kept in. The hypervisors import it, nobody else.
//
// A clone maps the memory image of its template privately. What it has written since is its own and lies in
// anonymous pages; the rest is the image's, page by page the same in all clones. Only a clone's
// own pages are kept when it is frozen again, always relative to the image, so they never pile up.
package memory

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"banger/internal/host"
)

// PageSize is the unit of everything here: offsets and lengths are multiples of it.
const PageSize = 4096

// Region is a guest's memory inside a VMM's process.
type Region struct {
	pid  int
	door func() (host.Memory, error) // nil: the process is opened by its number
	size int64
	// parts are where it lies, in the order of its offsets: the gap below 4 GiB, where a PC has its devices, is none of the memory.
	parts []part
	// Image reports whether the region maps a file; otherwise it began as zeros.
	Image bool
}

// part is a piece of a region that is one piece of the process's addresses, too.
type part struct {
	offset, size int64
	base         uint64
}

// Run is a piece of a region or an image.
type Run struct {
	Offset, Length int64
	// Zero: it holds nothing but zeros, which nobody keeps.
	Zero bool
}

// In is At for a process that may have to be opened by somebody who may: h.
func In(h host.Files, p host.Process, base uint64, size int64) (Region, error) {
	m, err := h.OpenMemory(p)
	if err != nil {
		return Region{}, err
	}
	if m == (host.Memory{}) {
		return At(p.PID, base, size)
	}
	defer m.Close()
	r := Region{pid: p.PID, size: size, parts: []part{{size: size, base: base}}, door: func() (host.Memory, error) { return h.OpenMemory(p) }}
	return r, r.find(m.Maps)
}

// At describes memory that a VMM says it has at an address of its own. The answer comes from a less trusted
// process, so the kernel is asked whether that is memory at all; whose it is does not matter, since a VMM can only lie about itself.
func At(pid int, base uint64, size int64) (Region, error) {
	r := Region{pid: pid, size: size, parts: []part{{size: size, base: base}}}
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return r, err
	}
	defer f.Close()
	return r, r.find(f)
}

// find looks the region up among the process's mappings.
func (r *Region) find(maps io.Reader) error {
	base := r.parts[0].base
	at, end := base, base+uint64(r.size)
	for in := bufio.NewScanner(maps); in.Scan() && at < end; {
		m, err := parseMapping(in.Text())
		if err != nil {
			return err
		}
		if m.end <= at {
			continue
		}
		if m.start > at || !strings.HasPrefix(m.perms, "rw") || !strings.HasSuffix(m.perms, "p") {
			break
		}
		r.Image = r.Image || m.inode != "0"
		at = m.end
	}
	if at < end {
		return fmt.Errorf("process %d has no private memory of %d MiB at %#x", r.pid, r.size>>20, base)
	}
	return nil
}

// mapping is a line of /proc/PID/maps (proc_pid_maps(5)).
type mapping struct {
	start, end   uint64
	offset       uint64 // in its file, in bytes
	perms, inode string
}

func parseMapping(line string) (mapping, error) {
	f := strings.Fields(line)
	if len(f) < 5 {
		return mapping{}, fmt.Errorf("cannot parse a mapping: %q", line)
	}
	from, to, _ := strings.Cut(f[0], "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	offset, err3 := strconv.ParseUint(f[2], 16, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return mapping{}, fmt.Errorf("cannot parse a mapping: %q", line)
	}
	return mapping{start: start, end: end, offset: offset, perms: f[1], inode: f[4]}, nil
}

// Size is the region's, in bytes.
func (r Region) Size() int64 { return r.size }

// All is the whole region.
func (r Region) All() []Run { return []Run{{Length: r.size}} }

// Bytes is how much the runs hold that are not zeros.
func Bytes(runs []Run) int64 {
	var n int64
	for _, r := range runs {
		if !r.Zero {
			n += r.Length
		}
	}
	return n
}

// open opens what /proc has of the process under a name: "pagemap" or "mem".
func (r Region) open(name string, flag int) (*os.File, error) {
	if r.door == nil {
		return os.OpenFile(fmt.Sprintf("/proc/%d/%s", r.pid, name), flag, 0)
	}
	m, err := r.door()
	if err != nil {
		return nil, err
	}
	f := &m.PageMap
	if name == "mem" {
		f = &m.Mem
	}
	keep := *f
	*f = nil
	m.Close()
	return keep, nil
}
