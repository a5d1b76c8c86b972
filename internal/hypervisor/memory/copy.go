package memory

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// maxVector is the kernel's UIO_MAXIOV.
const maxVector = 1024

// maxTransfer is what one call moves: the kernel stops at 2 GiB.
const maxTransfer = 256 << 20

// Read copies runs, one after the other, into buf, which must have room for all of them.
func (r Region) Read(runs []Run, buf []byte) error {
	err := r.vectors(runs, buf, unix.ProcessVMReadv)
	if errors.Is(err, unix.ENOSYS) {
		err = r.each(runs, buf, os.O_RDONLY, func(f *os.File, b []byte, at int64) error { _, err := f.ReadAt(b, at); return err })
	}
	if err != nil {
		return fmt.Errorf("cannot read the memory of process %d: %w", r.pid, err)
	}
	return nil
}

// Write copies buf into the runs, one after the other; runs of zeros get zeros and take nothing from buf.
func (r Region) Write(runs []Run, buf []byte) error {
	for len(runs) > 0 {
		n := 0
		for n < len(runs) && runs[n].Zero == runs[0].Zero {
			n++
		}
		var err error
		if runs[0].Zero {
			err = r.clear(runs[:n])
		} else {
			used := Bytes(runs[:n])
			err = r.write(runs[:n], buf[:used])
			buf = buf[used:]
		}
		if err != nil {
			return fmt.Errorf("cannot write the memory of process %d: %w", r.pid, err)
		}
		runs = runs[n:]
	}
	return nil
}

func (r Region) clear(runs []Run) error {
	zeros := make([]byte, min(length(runs), imageStep))
	for _, run := range pieces(runs, imageStep) {
		if err := r.write([]Run{run}, zeros[:run.Length]); err != nil {
			return err
		}
	}
	return nil
}

func (r Region) write(runs []Run, buf []byte) error {
	err := r.vectors(runs, buf, unix.ProcessVMWritev)
	if errors.Is(err, unix.ENOSYS) {
		err = r.each(runs, buf, os.O_WRONLY, func(f *os.File, b []byte, at int64) error { _, err := f.WriteAt(b, at); return err })
	}
	return err
}

type transfer func(pid int, local []unix.Iovec, remote []unix.RemoteIovec, flags uint) (int, error)

// vectors moves many runs with each call: half the time of /proc/PID/mem, which copies twice.
func (r Region) vectors(runs []Run, buf []byte, move transfer) error {
	if r.door != nil {
		return unix.ENOSYS // that call goes by what we may ourselves
	}
	runs = r.cut(runs)
	remote := make([]unix.RemoteIovec, 0, min(len(runs), maxVector))
	for len(runs) > 0 {
		remote, total := remote[:0], 0
		var left Run
		n := 0
		for ; n < len(runs) && n < maxVector && total < maxTransfer; n++ {
			size := min(int(runs[n].Length), maxTransfer-total)
			left = Run{Offset: runs[n].Offset + int64(size), Length: runs[n].Length - int64(size)}
			remote = append(remote, unix.RemoteIovec{Base: uintptr(r.address(runs[n].Offset)), Len: size})
			total += size
		}
		local := []unix.Iovec{{Base: &buf[0]}}
		local[0].SetLen(total)
		moved, err := move(r.pid, local, remote, 0)
		if err != nil {
			return err
		}
		if moved != total {
			return fmt.Errorf("%d bytes of %d: %w", moved, total, unix.EFAULT)
		}
		buf, runs = buf[total:], runs[n:]
		if left.Length > 0 {
			runs = append([]Run{left}, runs...)
		}
	}
	return nil
}

// each is for kernels without CONFIG_CROSS_MEMORY_ATTACH, and for processes that others must open.
func (r Region) each(runs []Run, buf []byte, flag int, move func(*os.File, []byte, int64) error) error {
	f, err := r.open("mem", flag)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, run := range r.cut(runs) {
		if err := move(f, buf[:run.Length], int64(r.address(run.Offset))); err != nil {
			return err
		}
		buf = buf[run.Length:]
	}
	return nil
}

// cut cuts runs where parts meet.
func (r Region) cut(runs []Run) []Run {
	if len(r.parts) < 2 {
		return runs
	}
	var out []Run
	for _, run := range runs {
		for _, p := range r.parts {
			from, to := max(run.Offset, p.offset), min(run.Offset+run.Length, p.offset+p.size)
			if from < to {
				out = append(out, Run{Offset: from, Length: to - from, Zero: run.Zero})
			}
		}
	}
	return out
}

// address is where the process has an offset of the region.
func (r Region) address(offset int64) uint64 {
	for _, p := range r.parts {
		if offset < p.offset+p.size {
			return p.base + uint64(offset-p.offset)
		}
	}
	return 0 // nothing is mapped there
}

// Restore puts back into the runs what an image file has there.
func (r Region) Restore(runs []Run, image string) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, run := range pieces(runs, imageStep) {
		b := make([]byte, run.Length)
		if _, err := f.ReadAt(b, run.Offset); err != nil {
			return err
		}
		if err := r.Write([]Run{run}, b); err != nil {
			return err
		}
	}
	return nil
}

// Zeros are the same runs, holding zeros.
func Zeros(runs []Run) []Run {
	out := make([]Run, len(runs))
	for i, r := range runs {
		out[i] = Run{Offset: r.Offset, Length: r.Length, Zero: true}
	}
	return out
}

// length is what the runs cover, zeros included.
func length(runs []Run) int64 {
	var n int64
	for _, r := range runs {
		n += r.Length
	}
	return n
}

// Buffer is memory outside of Go's heap whose pages are there already: copying into it takes no page faults.
type Buffer []byte

// hugePage is the size that the kernel may take at a time.
const hugePage = 2 << 20

// NewBuffer makes a buffer; Free gives it back. In huge pages, where the kernel has them to give, it is there in an eighth of the time.
func NewBuffer(size int64) (Buffer, error) {
	n := (max(int(size), 1) + hugePage - 1) &^ (hugePage - 1)
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("cannot allocate %d MiB: %w", size>>20, err)
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	if err := unix.Madvise(b, unix.MADV_POPULATE_WRITE); err != nil { // a kernel before 5.14
		for at := 0; at < n; at += PageSize {
			b[at] = 0
		}
	}
	return b, nil
}

// Free unmaps it; nil is no error.
func (b Buffer) Free() error {
	if b == nil {
		return nil
	}
	return unix.Munmap(b)
}
