package dmsnapshot

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"banger/internal/disk"
)

const testSize = 64 << 20

// newDisk makes an empty disk.
func newDisk(t testing.TB, base, format string) *link {
	t.Helper()
	path := filepath.Join(t.TempDir(), "d")
	if err := (&Driver{}).Create(t.Context(), disk.Spec{Path: path, Base: base, BaseFormat: format, SizeBytes: testSize}); err != nil {
		t.Fatal(err)
	}
	l, err := openLink(path, Format, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.file.Close() })
	return l
}

// put enters exceptions into a disk's file, and what they hold, as the kernel would.
func put(t testing.TB, l *link, added []exception, b byte) {
	t.Helper()
	st, err := l.store()
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(len(st.exceptions))
	first := make([]byte, chunkBytes)
	if err := readArea(l.file, n/perArea, first); err != nil {
		t.Fatal(err)
	}
	for i, area := range appended(first, n, added) {
		if _, err := l.file.WriteAt(area, fileBytes(areaAt(n/perArea+uint64(i)))); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range added {
		if _, err := l.file.WriteAt(bytes.Repeat([]byte{b}, chunkBytes), fileBytes(e.here)); err != nil {
			t.Fatal(err)
		}
	}
}

// given are n exceptions of chunks from old on, where the kernel would put them.
func given(st store, old, n uint64) []exception {
	var es []exception
	next := st.next()
	for i := range n {
		if isArea(next) {
			next++
		}
		es = append(es, exception{old: old + i, here: next})
		next++
	}
	return es
}

func TestHeader(t *testing.T) {
	l := newDisk(t, "", "")
	want := header{Generation: 1, Size: testSize, Reserved: firstFree}
	if l.header != want {
		t.Fatalf("%+v", l.header)
	}
	h := l.header
	for n := range 3 {
		h.Size += 512
		if err := writeHeader(l.file, &h); err != nil {
			t.Fatal(err)
		}
		if got, err := readHeader(l.file); err != nil || got != h || got.Generation != uint64(n+2) {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	// A write that was cut off leaves the one before.
	if _, err := l.file.WriteAt([]byte("torn"), int64(h.Generation%slots)*slotBytes+atStrings); err != nil {
		t.Fatal(err)
	}
	if got, err := readHeader(l.file); err != nil || got.Generation != h.Generation-1 || got.Size != h.Size-512 {
		t.Fatalf("%+v, %v", got, err)
	}
}

func FuzzHeader(f *testing.F) {
	for _, h := range []header{{Size: 512, Reserved: 2}, {Size: 1 << 30, Reserved: 77, Scratch: 99, Base: "/x", BaseFormat: formatRaw}} {
		slot, err := h.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(slot[atVersion:100])
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		slot := make([]byte, slotBytes)
		copy(slot, headerMagic)
		copy(slot[atVersion:], text)
		sum := checksum(slot)
		slot[atSum], slot[atSum+1], slot[atSum+2], slot[atSum+3] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		h, err := decodeHeader(slot)
		if err != nil {
			return
		}
		if h.Size <= 0 || h.Size > maxSize || h.Reserved > maxChunk || !validBase(h.Base, h.BaseFormat) {
			t.Fatalf("%+v", h)
		}
		again, err := h.encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeHeader(again); err != nil || got != h {
			t.Fatalf("%+v became %+v, %v", h, got, err)
		}
	})
}

// FuzzStore reads what no kernel has written: it ends, and never with numbers that are out of bounds.
func FuzzStore(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0}, uint32(512))
	f.Add(bytes.Repeat([]byte{3, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0}, 256), uint32(1<<20))
	f.Fuzz(func(t *testing.T, area []byte, size uint32) {
		text := make([]byte, fileBytes(areaAt(0)))
		copy(text[storeAt:], storeHeader())
		s, err := readStore(bytes.NewReader(append(text, area...)), int64(size))
		if err != nil {
			return
		}
		if uint64(len(s.exceptions)) > chunksOf(int64(size)) || s.next() > maxChunk || s.used() < s.next() {
			t.Fatalf("%d exceptions of a disk of %d bytes, next %d, used %d", len(s.exceptions), size, s.next(), s.used())
		}
		for _, e := range s.exceptions {
			if e.old >= chunksOf(int64(size)) || isArea(e.here) || e.here < firstFree {
				t.Fatalf("%+v", e)
			}
		}
	})
}

// Whatever is appended, in whatever portions, is what is read.
func TestAppended(t *testing.T) {
	for _, portions := range [][]uint64{{0}, {1}, {255, 1, 1}, {256}, {256, 256, 1}, {257}, {100, 300, 700}, {513, 0, 255}} {
		l := newDisk(t, "", "")
		var want []exception
		for _, n := range portions {
			st, err := l.store()
			if err != nil {
				t.Fatal(err)
			}
			added := given(st, uint64(len(want)), n)
			put(t, l, added, 'x')
			want = append(want, added...)
		}
		st, err := l.store()
		if err != nil || len(st.exceptions) != len(want) || len(want) > 0 && !reflect.DeepEqual(st.exceptions, want) {
			t.Errorf("%v: %d exceptions, %v", portions, len(st.exceptions), err)
		}
	}
}

// As long as the first of the appended areas is not written, nothing has happened.
func TestAppendedCutOff(t *testing.T) {
	l := newDisk(t, "", "")
	st, _ := l.store()
	put(t, l, given(st, 0, 300), 'x')
	if st, _ = l.store(); len(st.exceptions) != 300 {
		t.Fatal(len(st.exceptions))
	}
	first := make([]byte, chunkBytes)
	if err := readArea(l.file, 1, first); err != nil {
		t.Fatal(err)
	}
	areas := appended(first, 300, given(st, 300, 1000))
	for i := len(areas) - 1; i >= 0; i-- {
		now, err := l.store()
		if err != nil || len(now.exceptions) != 300 {
			t.Fatalf("with areas from %d on: %d exceptions, %v", i+1, len(now.exceptions), err)
		}
		if _, err := l.file.WriteAt(areas[i], fileBytes(areaAt(1+uint64(i)))); err != nil {
			t.Fatal(err)
		}
	}
	if now, err := l.store(); err != nil || len(now.exceptions) != 1300 {
		t.Fatalf("%d, %v", len(now.exceptions), err)
	}
}

// A merge holds of each chunk what is highest, where it was not written to higher up.
func TestMerge(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		want := map[uint64]byte{}
		var layers []*link
		for n := range 4 { // the lowest first
			l := newDisk(t, "", "")
			for range 3 {
				st, err := l.store()
				if err != nil {
					t.Fatal(err)
				}
				had := map[uint64]bool{}
				for _, e := range st.exceptions {
					had[e.old] = true
				}
				var added []exception
				for _, e := range given(st, rng.Uint64N(testSize/chunkBytes-200), 1+rng.Uint64N(200)) {
					if !had[e.old] {
						added = append(added, e)
						want[e.old] = byte('a' + n)
					}
				}
				put(t, l, added, byte('a'+n))
			}
			layers = append([]*link{l}, layers...)
		}
		skip := []exception{}
		for old := range want {
			if rng.IntN(10) == 0 {
				skip = append(skip, exception{old: old})
				delete(want, old)
			}
		}
		places, err := merged(layers, skip)
		if err != nil {
			t.Fatal(err)
		}
		to := newDisk(t, "", "")
		end := settle(places, 1000)
		if err := copyPlaces(t.Context(), to.file, places); err != nil {
			t.Fatal(err)
		}
		if len(places) != len(want) {
			t.Fatalf("%d places, not %d", len(places), len(want))
		}
		buf := make([]byte, chunkBytes)
		last := uint64(0)
		for _, p := range places {
			if _, err := to.file.ReadAt(buf, fileBytes(p.to)); err != nil {
				t.Fatal(err)
			}
			if isArea(p.to) || p.to <= last || p.to >= end || !bytes.Equal(buf, bytes.Repeat([]byte{want[p.old]}, chunkBytes)) {
				t.Fatalf("chunk %d is at %d and holds %q, not %q", p.old, p.to, buf[0], want[p.old])
			}
			last = p.to
		}
	}
}

// What is behind the chunks that a Flatten did not come to enter is given back, and never what it did.
func TestMend(t *testing.T) {
	d := &stack{Driver: New(Options{Log: quiet()})}
	l := newDisk(t, "", "")
	st, _ := l.store()
	put(t, l, given(st, 0, 10), 'x')
	const far = 5000
	if _, err := l.file.WriteAt(make([]byte, 1<<20), fileBytes(far)); err != nil {
		t.Fatal(err)
	}
	l.header.Scratch = far
	if err := writeHeader(l.file, &l.header); err != nil {
		t.Fatal(err)
	}
	if _, err := d.mend(l); err != nil {
		t.Fatal(err)
	}
	if info, _ := l.file.Stat(); blocksOf(info)*512 > 1<<19 || l.header.Scratch != 0 || l.header.Reserved != firstFree {
		t.Errorf("it takes %d, %+v", blocksOf(info)*512, l.header)
	}
	put(t, l, []exception{{old: 700, here: far + 3}}, 'y')
	l.header.Scratch = far
	if _, err := d.mend(l); err != nil {
		t.Fatal(err)
	}
	if h, err := readHeader(l.file); err != nil || h.Scratch != 0 || h.Reserved != far+4 {
		t.Errorf("%+v, %v", h, err)
	}
	// The kernel has given up on it.
	if _, err := l.file.WriteAt([]byte{0}, storeAt+4); err != nil {
		t.Fatal(err)
	}
	if st, err := l.store(); err != nil || !st.broken {
		t.Fatalf("%v, %v", st.broken, err)
	}
	if _, err := d.mend(l); err != nil {
		t.Fatal(err)
	}
	if st, err := l.store(); err != nil || st.broken || len(st.exceptions) != 11 {
		t.Errorf("%v, %d, %v", st.broken, len(st.exceptions), err)
	}
}

// A chain that lies on itself has an end, and a disk that others may write is none.
func TestChainRefusals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d")
	l := newDisk(t, "", "")
	l.header.Base, l.header.BaseFormat = l.file.Name(), Format
	if err := writeHeader(l.file, &l.header); err != nil {
		t.Fatal(err)
	}
	if _, err := openChain(l.file.Name(), os.O_RDONLY); err == nil {
		t.Error("opened a disk that lies on itself")
	}
	if err := errors.Join(os.Link(l.file.Name(), path), os.Chmod(path, 0o622)); err != nil {
		t.Fatal(err)
	}
	if _, err := openLink(path, Format, os.O_RDONLY); err == nil {
		t.Error("opened a disk that others may write")
	}
}
