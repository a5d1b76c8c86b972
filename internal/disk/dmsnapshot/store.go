package dmsnapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The kernel's persistent exception store (drivers/md/dm-snap-persistent.c; all little-endian). Chunk 0 holds magic, valid, version and the
// chunk's size in sectors. Chunk 1 and every stride-th after it is an area: a table of exceptions, each the number of a chunk of the
// disk and that of the chunk here that holds it. An exception whose second number is 0 ends the last area. Whatever is not an area is free for
// data; the kernel gives chunks away in order, beginning behind the highest one in the tables.
const (
	chunkBytes   = 4096
	chunkSectors = chunkBytes / 512
	perArea      = chunkBytes / 16
	stride       = perArea + 1
	firstFree    = 2 // behind the header and the first area

	storeMagic   = 0x70416e53 // "SnAp"
	storeVersion = 1

	// maxSize is the largest disk: its file stays below the 16 TiB of ext4, even after a few Flattens.
	maxSize = 4 << 40
	// maxChunk bounds every number of a chunk, so that offsets cannot overflow.
	maxChunk = (16 << 40) / chunkBytes
)

// exception says that chunk old of the disk is in chunk here of the store.
type exception struct{ old, here uint64 }

// storeHeader is the kernel's header of a new store, or of one that was broken and is to be used again: what is in the tables was
// written before it broke, and nothing was said to be written that is not.
func storeHeader() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, storeMagic)
	b = le.AppendUint32(b, 1) // valid
	b = le.AppendUint32(b, storeVersion)
	return le.AppendUint32(b, chunkSectors)
}

// areaAt is the chunk of an area.
func areaAt(n uint64) uint64 { return 1 + n*stride }

// isArea reports whether a chunk is an area's.
func isArea(chunk uint64) bool { return chunk%stride == 1 }

// chunksOf is how many chunks a disk has.
func chunksOf(size int64) uint64 { return uint64(size+chunkBytes-1) / chunkBytes }

// storeChunks is how many chunks a store needs so that every chunk of a disk of this size finds room when the kernel gives away those from
// reserved on.
func storeChunks(reserved uint64, size int64) uint64 {
	n := chunksOf(size)
	return reserved + n + n/perArea + 2*stride
}

// fileBytes is the size of a file with so many chunks in its store.
func fileBytes(chunks uint64) int64 { return storeAt + int64(chunks)*chunkBytes }

// store is the exceptions of a disk as they are in its file.
type store struct {
	// broken is how the kernel marks one that it could not keep up.
	broken     bool
	exceptions []exception
}

// next is the chunk that the kernel would give away next, or the one before.
func (s store) next() uint64 {
	next := uint64(firstFree)
	for _, e := range s.exceptions {
		next = max(next, e.here+1)
	}
	return next
}

// used is how many chunks the kernel looks at: all that are given away, and the area that ends the list.
func (s store) used() uint64 {
	return max(s.next(), areaAt(uint64(len(s.exceptions)/perArea))+1)
}

// readStore reads the exceptions of a disk of this size from its file, and refuses what the kernel could not have written.
func readStore(f io.ReaderAt, size int64) (store, error) {
	head := make([]byte, 16)
	if _, err := f.ReadAt(head, storeAt); err != nil {
		return store{}, fmt.Errorf("cannot read its store: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint32(head) != storeMagic || le.Uint32(head[8:]) != storeVersion || le.Uint32(head[12:]) != chunkSectors {
		return store{}, errors.New("its store is damaged: it has no header")
	}
	s := store{broken: le.Uint32(head[4:]) == 0}
	if err := s.read(f, size); err != nil {
		return store{}, err
	}
	return s, nil
}

// read reads what was added behind the exceptions that s has.
func (s *store) read(f io.ReaderAt, size int64) error {
	le := binary.LittleEndian
	limit := chunksOf(size)
	area := make([]byte, chunkBytes)
	for {
		n := uint64(len(s.exceptions))
		if err := readArea(f, n/perArea, area); err != nil {
			return err
		}
		for at := n % perArea; at < perArea; at++ {
			e := exception{old: le.Uint64(area[at*16:]), here: le.Uint64(area[at*16+8:])}
			if e.here == 0 {
				return nil
			}
			if e.old >= limit || e.here < firstFree || e.here >= maxChunk || isArea(e.here) || uint64(len(s.exceptions)) >= limit {
				return fmt.Errorf("its store is damaged: exception %d is of chunk %d at %d", len(s.exceptions), e.old, e.here)
			}
			s.exceptions = append(s.exceptions, e)
		}
	}
}

// readArea reads an area, one behind the file's end as empty.
func readArea(f io.ReaderAt, n uint64, to []byte) error {
	clear(to)
	if _, err := f.ReadAt(to, fileBytes(areaAt(n))); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("cannot read its store: %w", err)
	}
	return nil
}

// appended are the areas, by number, that hold the exceptions added behind the n that are there: the first one is filled up,
// and one that ends the list follows. Written in any order but with the first one last, they count from one moment to the next.
func appended(first []byte, n uint64, added []exception) [][]byte {
	le := binary.LittleEndian
	areas := [][]byte{append([]byte(nil), first...)}
	for i, e := range added {
		at := (n + uint64(i)) % perArea
		if at == 0 && i > 0 {
			areas = append(areas, make([]byte, chunkBytes))
		}
		area := areas[len(areas)-1]
		le.PutUint64(area[at*16:], e.old)
		le.PutUint64(area[at*16+8:], e.here)
	}
	if (n+uint64(len(added)))%perArea == 0 && len(added) > 0 {
		areas = append(areas, make([]byte, chunkBytes))
	}
	return areas
}
