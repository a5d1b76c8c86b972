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
	"os"
	"strconv"
	"strings"
)

// PageSize is the unit of everything here: offsets and lengths are multiples of it.
const PageSize = 4096

// Region is a guest's memory inside a VMM's process.
type Region struct {
	pid  int
	base uint64
	size int64
	// Image reports whether the region maps a file; otherwise it began as zeros.
	Image bool
}

// Run is a piece of a region or an image.
type Run struct {
	Offset, Length int64
	// Zero: it holds nothing but zeros, which nobody keeps.
	Zero bool
}

// At describes memory that a VMM says it has at an address of its own. The answer comes from a less trusted
// process, so the kernel is asked whether that is memory at all; whose it is does not matter, since a VMM can only lie about itself.
func At(pid int, base uint64, size int64) (Region, error) {
	r := Region{pid: pid, base: base, size: size}
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return r, err
	}
	defer f.Close()
	at, end := base, base+uint64(size)
	for in := bufio.NewScanner(f); in.Scan() && at < end; {
		m, err := parseMapping(in.Text())
		if err != nil {
			return r, err
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
		return r, fmt.Errorf("process %d has no private memory of %d MiB at %#x", pid, size>>20, base)
	}
	return r, nil
}

// mapping is a line of /proc/PID/maps (proc_pid_maps(5)).
type mapping struct {
	start, end   uint64
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
	if err := errors.Join(err1, err2); err != nil {
		return mapping{}, fmt.Errorf("cannot parse a mapping: %q", line)
	}
	return mapping{start: start, end: end, perms: f[1], inode: f[4]}, nil
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
