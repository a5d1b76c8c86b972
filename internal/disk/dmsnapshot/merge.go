package dmsnapshot

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// place is where a chunk of a merged disk is now, and where it is to be.
type place struct {
	old  uint64
	from *os.File
	at   int64  // in that file
	to   uint64 // in the store that it is copied into
}

// merged are the chunks that show through these layers, the highest first, other than those in skip: in the order of the disk, which is how
// they will be read.
func merged(layers []*link, skip []exception) ([]place, error) {
	seen := make(map[uint64]bool, len(skip))
	for _, e := range skip {
		seen[e.old] = true
	}
	var places []place
	for _, l := range layers {
		own, err := l.places()
		if err != nil {
			return nil, err
		}
		for _, p := range own {
			if !seen[p.old] {
				seen[p.old] = true
				places = append(places, p)
			}
		}
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.old, b.old) })
	return places, nil
}

// places are the chunks that a layer has itself.
func (l *link) places() ([]place, error) {
	if !l.disk {
		return rawPlaces(l)
	}
	st, err := l.store()
	if err != nil {
		return nil, err
	}
	places := make([]place, 0, len(st.exceptions))
	for _, e := range st.exceptions {
		places = append(places, place{old: e.old, from: l.file, at: fileBytes(e.here)})
	}
	return places, nil
}

// rawPlaces are the chunks of an image in which there is data.
func rawPlaces(l *link) ([]place, error) {
	var places []place
	for at := int64(0); at < l.size; {
		data, err := unix.Seek(int(l.file.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		} else if err != nil {
			return nil, err
		}
		hole, err := unix.Seek(int(l.file.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		for at = data / chunkBytes * chunkBytes; at < hole; at += chunkBytes {
			places = append(places, place{old: uint64(at / chunkBytes), from: l.file, at: at})
		}
	}
	return places, nil
}

// settle says where each place goes, from chunk first on, and what comes behind the last.
func settle(places []place, first uint64) (next uint64) {
	for n := range places {
		if isArea(first) {
			first++
		}
		places[n].to = first
		first++
	}
	return first
}

// copyChunks is how many chunks are copied between two looks at the context.
const copyChunks = 1024

// copyPlaces copies what is at the places into the store of to, in runs.
func copyPlaces(ctx context.Context, to *os.File, places []place) error {
	for len(places) > 0 {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n := 1
		for ; n < len(places) && n < copyChunks; n++ {
			a, b := places[n-1], places[n]
			if a.from != b.from || a.at+chunkBytes != b.at || a.to+1 != b.to {
				break
			}
		}
		if err := copyRun(to, places[0], int64(n)*chunkBytes); err != nil {
			return err
		}
		places = places[n:]
	}
	return nil
}

// copyRun shares the blocks where the file system can. What was discarded is a hole, and stays one.
func copyRun(to *os.File, p place, bytes int64) error {
	in, out := p.at, fileBytes(p.to)
	for end := in + bytes; in < end; {
		data, err := unix.Seek(int(p.from.Fd()), in, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && data >= end {
			return nil
		} else if err != nil {
			return err
		}
		hole, err := unix.Seek(int(p.from.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		out += data - in
		in = data
		for stop := min(hole, end); in < stop; {
			// It moves both offsets on.
			n, err := unix.CopyFileRange(int(p.from.Fd()), &in, int(to.Fd()), &out, int(stop-in), 0)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
				m, err := io.Copy(io.NewOffsetWriter(to, out), io.NewSectionReader(p.from, in, stop-in))
				if err != nil {
					return err
				}
				in, out = in+m, out+m
			case err != nil:
				return err
			case n == 0:
				return io.ErrUnexpectedEOF
			}
		}
	}
	return nil
}
