package memory

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// scanArg is struct pm_scan_arg, and scanRange struct page_region, of the kernel's linux/fs.h (since Linux 6.7).
type scanArg struct {
	size, flags, start, end, walkEnd, vec, vecLen, maxPages uint64
	inverted, mask, anyOf, returned                         uint64
}

type scanRange struct{ start, end, categories uint64 }

const (
	pagemapScan   = 0xc0606610 // _IOWR('f', 16, struct pm_scan_arg)
	pageIsFile    = 1 << 2
	pageIsPresent = 1 << 3
	pageIsSwapped = 1 << 4
	pageIsZero    = 1 << 5
	scanRanges    = 4096
)

// Own finds the pages that belong to this process alone: written since it mapped the image, or, where there is no image, at all.
func (r Region) Own() ([]Run, error) {
	f, err := r.open("pagemap", os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var runs []Run
	for _, p := range r.parts {
		own, err := p.scan(f)
		if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
			own, err = p.readPagemap(f) // a kernel before 6.7
		}
		if err != nil {
			return nil, fmt.Errorf("cannot tell which pages process %d has written: %w", r.pid, err)
		}
		runs = append(runs, own...)
	}
	return runs, nil
}

// scan asks the kernel for ranges: (present or swapped out) and neither the file's nor the zero page.
func (p part) scan(f *os.File) ([]Run, error) {
	var runs []Run
	ranges := make([]scanRange, scanRanges)
	a := scanArg{
		size: uint64(unsafe.Sizeof(scanArg{})), start: p.base, end: p.base + uint64(p.size),
		vec: uint64(uintptr(unsafe.Pointer(&ranges[0]))), vecLen: scanRanges,
		inverted: pageIsFile | pageIsZero, mask: pageIsFile | pageIsZero, anyOf: pageIsPresent | pageIsSwapped,
		// Nothing else is told apart, so that neighbours come as one range.
		returned: pageIsFile,
	}
	for a.start < a.end {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), pagemapScan, uintptr(unsafe.Pointer(&a)))
		if errno != 0 {
			return nil, errno
		}
		for _, g := range ranges[:n] {
			runs = appendRun(runs, p.offset+int64(g.start-p.base), int64(g.end-g.start))
		}
		// The kernel works in pieces of its own. What it says of where it stopped is about the piece before the last when
		// it has come to the end (fs/proc/task_mmu.c, pagemap_scan: walk_end is not set then), so the room left in vec tells.
		if n < scanRanges-1 {
			break
		}
		if a.walkEnd <= a.start {
			return nil, errors.New("the kernel's search of pages does not advance")
		}
		a.start = a.walkEnd
	}
	return union(runs), nil
}

// union puts runs in order and joins those that overlap: a search that goes on where another stopped may report a range again.
// The guest stands still, so both reports are true.
func union(runs []Run) []Run {
	slices.SortFunc(runs, func(a, b Run) int { return cmp.Compare(a.Offset, b.Offset) })
	out := runs[:0]
	for _, r := range runs {
		if n := len(out); n > 0 && r.Offset <= out[n-1].Offset+out[n-1].Length {
			out[n-1].Length = max(out[n-1].Length, r.Offset+r.Length-out[n-1].Offset)
			continue
		}
		out = append(out, r)
	}
	return out
}

// The bits of an entry of /proc/PID/pagemap (proc_pid_pagemap(5)).
const (
	entryFile    = 1 << 61
	entrySwapped = 1 << 62
	entryPresent = 1 << 63
)

func (p part) readPagemap(f *os.File) ([]Run, error) {
	var runs []Run
	entries := make([]byte, 8*scanRanges)
	pages := p.size / PageSize
	for at := int64(0); at < pages; at += scanRanges {
		b := entries[:8*min(scanRanges, pages-at)]
		if _, err := f.ReadAt(b, (int64(p.base/PageSize)+at)*8); err != nil {
			return nil, err
		}
		for i := 0; i < len(b); i += 8 {
			e := binary.NativeEndian.Uint64(b[i:])
			if e&(entryPresent|entrySwapped) != 0 && e&entryFile == 0 {
				runs = appendRun(runs, p.offset+(at+int64(i/8))*PageSize, PageSize)
			}
		}
	}
	return runs, nil
}

// appendRun joins what touches.
func appendRun(runs []Run, offset, length int64) []Run {
	if n := len(runs); n > 0 && runs[n-1].Offset+runs[n-1].Length == offset {
		runs[n-1].Length += length
		return runs
	}
	return append(runs, Run{Offset: offset, Length: length})
}
