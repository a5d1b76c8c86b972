package memory

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ErrDamaged is what a file gives that is not what was written, or belongs to something else.
var ErrDamaged = errors.New("the frozen memory is damaged")

// A file of pages: a header of 64 bytes (magic, version, flags, size of the memory, runs, bytes of data, id of
// the image, CRC32C of all that follows, CRC32C of the header before it), the runs (offset, length; little-endian, bit 0 of a length
// says that the run is zeros and has no data), filled up to a whole page, then the data of the runs in order.
const (
	pagesMagic   = "bngrPG01"
	pagesHeader  = 64
	runBytes     = 16
	flagZero     = 1
	headerSumAt  = 60
	contentSumAt = 56
)

// castagnoli is the polynomial that CPUs compute themselves.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// ImageID names an image; the zero value is the empty memory that a cold boot begins with.
type ImageID [16]byte

// Pages are the own pages of a guest at one moment.
type Pages struct {
	// Size is the guest's memory.
	Size int64
	// Image is what they lie over.
	Image ImageID
	Runs  []Run
	// Data are the runs' bytes, one after the other, without those of zero runs.
	Data []byte
	// file is the mapping that Data lies in, when it was read.
	file []byte
}

// Prune finds the pages of p that hold nothing but zeros. Over an image they become runs of zeros; over nothing they are
// left out. Data is closed up.
func (p *Pages) Prune() {
	var zero [PageSize]byte
	var runs []Run
	add := func(at, n int64, zeros bool) {
		if l := len(runs); l > 0 && runs[l-1].Zero == zeros && runs[l-1].Offset+runs[l-1].Length == at {
			runs[l-1].Length += n
			return
		}
		runs = append(runs, Run{Offset: at, Length: n, Zero: zeros})
	}
	from, to := int64(0), int64(0)
	for _, r := range p.Runs {
		for at := int64(0); at < r.Length; at += PageSize {
			page := p.Data[from : from+PageSize]
			from += PageSize
			if string(page) == string(zero[:]) {
				if p.Image != (ImageID{}) {
					add(r.Offset+at, PageSize, true)
				}
				continue
			}
			if to != from-PageSize {
				copy(p.Data[to:], page)
			}
			to += PageSize
			add(r.Offset+at, PageSize, false)
		}
	}
	p.Runs, p.Data = runs, p.Data[:to]
}

// index is header and runs as they stand in the file.
func (p *Pages) index() []byte {
	le := binary.LittleEndian
	b := make([]byte, pagesHeader, pagesHeader+len(p.Runs)*runBytes+PageSize)
	for _, r := range p.Runs {
		n := uint64(r.Length)
		if r.Zero {
			n |= flagZero
		}
		b = le.AppendUint64(le.AppendUint64(b, uint64(r.Offset)), n)
	}
	b = append(b, make([]byte, -len(b)&(PageSize-1))...)
	copy(b, pagesMagic)
	le.PutUint64(b[8:], uint64(p.Size))
	le.PutUint64(b[16:], uint64(len(p.Runs)))
	le.PutUint64(b[24:], uint64(len(p.Data)))
	copy(b[32:48], p.Image[:])
	sum := crc32.Update(crc32.Checksum(b[pagesHeader:], castagnoli()), castagnoli(), p.Data)
	le.PutUint32(b[contentSumAt:], sum)
	le.PutUint32(b[headerSumAt:], crc32.Checksum(b[:headerSumAt], castagnoli()))
	return b
}

// WriteTo writes the file.
func (p *Pages) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(p.index())
	if err != nil {
		return int64(n), err
	}
	m, err := w.Write(p.Data)
	return int64(n) + int64(m), err
}

// ReadPages maps a file of pages and checks it. Close unmaps it.
func ReadPages(path string) (*Pages, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() < PageSize || fi.Size() != int64(int(fi.Size())) {
		return nil, fmt.Errorf("%w: %s has %d bytes", ErrDamaged, path, fi.Size())
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("cannot map %s: %w", path, err)
	}
	p, err := parsePages(b)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s: %w", ErrDamaged, path, err), unix.Munmap(b))
	}
	return p, nil
}

func parsePages(b []byte) (*Pages, error) {
	le := binary.LittleEndian
	if string(b[:8]) != pagesMagic {
		return nil, errors.New("it is no file of pages")
	}
	if le.Uint32(b[headerSumAt:]) != crc32.Checksum(b[:headerSumAt], castagnoli()) {
		return nil, errors.New("its header does not check")
	}
	p := &Pages{Size: int64(le.Uint64(b[8:])), file: b}
	copy(p.Image[:], b[32:48])
	runs, data := le.Uint64(b[16:]), le.Uint64(b[24:])
	index := (pagesHeader + runs*runBytes + PageSize - 1) &^ (PageSize - 1)
	if runs > uint64(len(b))/runBytes || data > uint64(len(b)) || index+data != uint64(len(b)) {
		return nil, errors.New("its length is not what its header says")
	}
	if le.Uint32(b[contentSumAt:]) != crc32.Checksum(b[pagesHeader:], castagnoli()) {
		return nil, errors.New("its content does not check")
	}
	p.Data = b[index:]
	end := int64(0)
	for i := range runs {
		at := pagesHeader + i*runBytes
		n := le.Uint64(b[at+8:])
		r := Run{Offset: int64(le.Uint64(b[at:])), Length: int64(n &^ flagZero), Zero: n&flagZero != 0}
		if r.Offset < end || r.Length <= 0 || r.Offset%PageSize != 0 || r.Length%PageSize != 0 || r.Length > p.Size-r.Offset {
			return nil, errors.New("its runs make no sense")
		}
		end = r.Offset + r.Length
		p.Runs = append(p.Runs, r)
	}
	if Bytes(p.Runs) != int64(len(p.Data)) {
		return nil, errors.New("its runs do not make up its data")
	}
	return p, nil
}

// Close unmaps what ReadPages has mapped.
func (p *Pages) Close() error {
	if p == nil || p.file == nil {
		return nil
	}
	return unix.Munmap(p.file)
}
