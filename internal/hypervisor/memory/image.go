package memory

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// An image is a sparse file: the guest's memory as it is, so that a VMM can map it, and after it one page that says
// what it is: magic, size of the memory, id, CRC32C of the pages that are not zeros, CRC32C of this before it. A VMM maps only the memory.
const (
	imageMagic = "bngrIM01"
	trailerSum = 40
)

// Image is a memory image at rest.
type Image struct {
	Path string
	ID   ImageID
	// Size is the guest's memory; the file is a page longer.
	Size int64
	sum  uint32
	file fileID
}

// fileID tells whether a path still names the file that it did.
type fileID struct{ dev, ino, mtime uint64 }

// imageStep is how much is read at once.
const imageStep = 1 << 20

// WriteImage writes what r holds in the runs into a new image, reading as it goes: the guest must stand still. It
// returns the image and the bytes that are not zeros. Nothing is fsynced.
func WriteImage(f *os.File, r Region, runs []Run) (Image, int64, error) {
	im := Image{Path: f.Name(), Size: r.Size()}
	if _, err := rand.Read(im.ID[:]); err != nil {
		return im, 0, err
	}
	buf := make([]byte, imageStep)
	written := int64(0)
	for _, run := range pieces(runs, imageStep) {
		b := buf[:run.Length]
		if err := r.Read([]Run{run}, b); err != nil {
			return im, 0, err
		}
		n, err := im.writeSparse(f, b, run.Offset)
		if err != nil {
			return im, 0, err
		}
		written += n
	}
	if _, err := f.WriteAt(im.trailer(), im.Size); err != nil {
		return im, 0, err
	}
	return im, written, nil
}

// writeSparse writes the pages of b that are not zeros and adds them to the image's sum.
func (im *Image) writeSparse(f io.WriterAt, b []byte, at int64) (int64, error) {
	var zero [PageSize]byte
	written := int64(0)
	for len(b) > 0 {
		n := 0
		for n < len(b) && !bytes.Equal(b[n:n+PageSize], zero[:]) {
			n += PageSize
		}
		if n > 0 {
			if _, err := f.WriteAt(b[:n], at); err != nil {
				return written, err
			}
			im.sum = crc32.Update(im.sum, castagnoli(), b[:n])
			written += int64(n)
		}
		n = min(n+PageSize, len(b)) // the page after it is zeros
		b, at = b[n:], at+int64(n)
	}
	return written, nil
}

func (im *Image) trailer() []byte {
	le := binary.LittleEndian
	b := make([]byte, PageSize)
	copy(b, imageMagic)
	le.PutUint64(b[8:], uint64(im.Size))
	copy(b[16:], im.ID[:])
	le.PutUint32(b[32:], im.sum)
	le.PutUint32(b[trailerSum:], crc32.Checksum(b[:trailerSum], castagnoli()))
	return b
}

// ReadImage looks at an image's last page only.
func ReadImage(path string) (Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return Image{}, err
	}
	defer f.Close()
	return readImage(f)
}

func readImage(f *os.File) (Image, error) {
	im := Image{Path: f.Name()}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return im, err
	}
	im.Size, im.file = st.Size-PageSize, fileID{st.Dev, st.Ino, uint64(st.Mtim.Nano())}
	b := make([]byte, PageSize)
	if im.Size <= 0 {
		return im, fmt.Errorf("%w: %s has %d bytes", ErrDamaged, f.Name(), st.Size)
	}
	if _, err := f.ReadAt(b, im.Size); err != nil {
		return im, err
	}
	le := binary.LittleEndian
	if string(b[:8]) != imageMagic || le.Uint32(b[trailerSum:]) != crc32.Checksum(b[:trailerSum], castagnoli()) || int64(le.Uint64(b[8:])) != im.Size {
		return im, fmt.Errorf("%w: %s does not end as a memory image does", ErrDamaged, f.Name())
	}
	copy(im.ID[:], b[16:])
	im.sum = le.Uint32(b[32:])
	return im, nil
}

// copyImage reads all of an image, checks it, and gives each piece that is not a hole to put.
func copyImage(f *os.File, im Image, put func(b []byte, at int64) error) error {
	check := Image{}
	buf := make([]byte, imageStep)
	for at := int64(0); at < im.Size; {
		start, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return err
		}
		end, err := f.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		start, end = start&^(PageSize-1), min((end+PageSize-1)&^(PageSize-1), im.Size)
		for start < end {
			b := buf[:min(imageStep, end-start)]
			if _, err := f.ReadAt(b, start); err != nil {
				return err
			}
			if _, err := check.writeSparse(discard{}, b, start); err != nil {
				return err
			}
			if err := put(b, start); err != nil {
				return err
			}
			start += int64(len(b))
		}
		at = max(end, at+PageSize)
	}
	if check.sum != im.sum {
		return fmt.Errorf("%w: %s is not what was written", ErrDamaged, im.Path)
	}
	return nil
}

type discard struct{}

func (discard) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

func pieces(runs []Run, step int64) []Run {
	var out []Run
	for _, r := range runs {
		for at := int64(0); at < r.Length; at += step {
			out = append(out, Run{Offset: r.Offset + at, Length: min(step, r.Length-at), Zero: r.Zero})
		}
	}
	return out
}
