package memory

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/host"
	"banger/internal/host/local"
)

// mapped is memory of this very process that looks like a VMM's: an image mapped privately, or nothing.
func mapped(t *testing.T, size int, image *os.File) ([]byte, Region) {
	t.Helper()
	fd, flags := -1, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS
	if image != nil {
		fd, flags = int(image.Fd()), unix.MAP_PRIVATE
	}
	// A hole around it keeps it from growing together with other mappings.
	b, err := unix.MmapPtr(fd, 0, nil, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.MunmapPtr(b, uintptr(size)) })
	if err := unix.Madvise(unsafe.Slice((*byte)(b), size), unix.MADV_NOHUGEPAGE); err != nil {
		t.Fatal(err)
	}
	r, err := At(os.Getpid(), uint64(uintptr(b)), int64(size))
	if err != nil {
		t.Fatal(err)
	}
	if r.Image != (image != nil) {
		t.Errorf("Image = %v", r.Image)
	}
	return unsafe.Slice((*byte)(b), size), r
}

// noise is a file of random pages with holes.
func noise(t *testing.T, size int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, PageSize)
	for at := int64(0); at < size; at += 3 * PageSize {
		_, _ = rand.Read(b)
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestAt(t *testing.T) {
	b, r := mapped(t, 64<<10, nil)
	for name, try := range map[string]struct {
		base uint64
		size int64
	}{
		"nothing there":  {PageSize, PageSize},
		"beyond its end": {r.parts[0].base, 1 << 40},
		"read-only":      {uint64(uintptr(unsafe.Pointer(unsafe.StringData(pagesMagic)))) &^ (PageSize - 1), PageSize},
	} {
		if got, err := At(os.Getpid(), try.base, try.size); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	_ = b
}

// TestPiecesOfMemory: memory of two pieces is found in one mapping, upper end first, and in two mappings of a file, by what they map.
func TestPiecesOfMemory(t *testing.T) {
	const odd = 0x7b000 // a size that nothing else has
	both, r := mapped(t, 2*odd, nil)
	want := r.parts[0].base
	got, err := Find(local.New(), host.Process{PID: os.Getpid()}, []int64{odd + PageSize, odd - PageSize}, false)
	if err != nil {
		t.Fatal(err)
	}
	if got.parts[0].base != want+odd-PageSize || got.parts[1].base != want || got.Size() != 2*odd {
		t.Errorf("%+v, want the pieces of what is at %#x", got, want)
	}
	_ = both
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(2 * odd); err != nil {
		t.Fatal(err)
	}
	var bases [2]uint64
	for n := range 2 {
		b, err := unix.Mmap(int(f.Fd()), int64(n*odd), odd, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Munmap(b)
		bases[n] = uint64(uintptr(unsafe.Pointer(&b[0])))
	}
	got, err = Find(local.New(), host.Process{PID: os.Getpid()}, []int64{odd, odd}, true)
	if err != nil {
		t.Fatal(err)
	}
	if got.parts[0].base != bases[0] || got.parts[1].base != bases[1] {
		t.Errorf("%+v, want the pieces at %#x", got, bases)
	}
}

func TestOwnPages(t *testing.T) {
	t.Parallel()
	const pages = 24_000
	for name, image := range map[string]*os.File{"over an image": noise(t, pages*PageSize), "over nothing": nil} {
		t.Run(name, func(t *testing.T) {
			b, r := mapped(t, pages*PageSize, image)
			var want []Run
			// More ranges than one search gives, some of several pages, and pages that are only read.
			for p := 0; p < pages; p += 2 {
				n := 1 + p/2%5/4
				for k := range n {
					b[(p+k)*PageSize+k] = 1
				}
				want = appendRun(want, int64(p)*PageSize, int64(n)*PageSize)
			}
			want = union(want)
			sum := byte(0)
			for p := range pages {
				sum += b[p*PageSize]
			}
			_ = sum
			got, err := r.Own()
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Errorf("Own found %d runs of %d bytes, want %d of %d", len(got), Bytes(got), len(want), Bytes(want))
			}
			f, err := os.Open("/proc/self/pagemap")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if got, err = r.parts[0].readPagemap(f); err != nil {
				t.Fatal(err)
			}
			// Without an image the zero page, which was only read, cannot be told from others there.
			if image != nil && !slices.Equal(got, want) {
				t.Errorf("pagemap: %d runs of %d bytes, want %d of %d", len(got), Bytes(got), len(want), Bytes(want))
			}
		})
	}
}

func TestPagesThereAndBack(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	image := noise(t, size)
	b, r := mapped(t, size, image)
	for _, p := range []int{0, 1, 2, 9, 500, 1023} {
		_, _ = rand.Read(b[p*PageSize : (p+1)*PageSize])
	}
	clear(b[3*PageSize : 5*PageSize]) // zeros over what is not
	own, err := r.Own()
	if err != nil {
		t.Fatal(err)
	}
	p := Pages{Size: size, Image: ImageID{1}, Runs: own, Data: make([]byte, Bytes(own))}
	if err := r.Read(own, p.Data); err != nil {
		t.Fatal(err)
	}
	p.Prune()
	if len(p.Data) != 6*PageSize {
		t.Errorf("%d bytes are kept of 6 pages", len(p.Data))
	}
	path := filepath.Join(t.TempDir(), "pages")
	var text bytes.Buffer
	if _, err := p.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := ReadPages(path)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	other, fresh := mapped(t, size, image)
	if err := fresh.Write(got.Runs, got.Data); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(other, b) || got.Image != p.Image || got.Size != size {
		t.Error("the copy differs")
	}
	if err := fresh.Restore([]Run{{Offset: 0, Length: 5 * PageSize}}, image.Name()); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 5*PageSize)
	if _, err := image.ReadAt(want, 0); err != nil || !bytes.Equal(other[:len(want)], want) {
		t.Errorf("the image was not put back: %v", err)
	}

	// Over nothing, zeros are not kept at all.
	p = Pages{Size: size, Runs: []Run{{Length: 3 * PageSize}}, Data: make([]byte, 3*PageSize)}
	p.Data[PageSize] = 1
	p.Prune()
	if !slices.Equal(p.Runs, []Run{{Offset: PageSize, Length: PageSize}}) || len(p.Data) != PageSize {
		t.Errorf("%+v", p.Runs)
	}
}

func TestDamagedPages(t *testing.T) {
	t.Parallel()
	p := Pages{Size: 1 << 20, Runs: []Run{{Offset: PageSize, Length: PageSize}, {Offset: 5 * PageSize, Length: PageSize, Zero: true}}, Data: bytes.Repeat([]byte("x"), PageSize)}
	var text bytes.Buffer
	if _, err := p.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	good := text.Bytes()
	path := filepath.Join(t.TempDir(), "pages")
	read := func(b []byte) error {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := ReadPages(path)
		return errors.Join(err, p.Close())
	}
	if err := read(good); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 9, 17, 30, 40, 57, 61, 70, 80, 4000, PageSize, 2*PageSize - 1} {
		b := bytes.Clone(good)
		b[at] ^= 4
		if err := read(b); !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d changed: %v", at, err)
		}
	}
	for _, b := range [][]byte{nil, good[:63], good[:PageSize], good[:len(good)-1], append(bytes.Clone(good), 0)} {
		if err := read(b); !errors.Is(err, ErrDamaged) {
			t.Errorf("%d bytes of %d: %v", len(b), len(good), err)
		}
	}
}

func FuzzPages(f *testing.F) {
	p := Pages{Size: 1 << 20, Runs: []Run{{Offset: PageSize, Length: PageSize}}, Data: make([]byte, PageSize)}
	var text bytes.Buffer
	_, _ = p.WriteTo(&text)
	f.Add(text.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < PageSize {
			return
		}
		p, err := parsePages(b)
		if err == nil && Bytes(p.Runs) != int64(len(p.Data)) {
			t.Error("runs and data do not go together")
		}
	})
}

// writeImage makes an image of a region.
func writeImage(t *testing.T, r Region) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "memory"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	im, n, err := WriteImage(f, r, r.All())
	if err != nil || n == 0 || im.Size != r.Size() {
		t.Fatalf("WriteImage = %+v, %d, %v", im, n, err)
	}
	return f.Name()
}

func TestVault(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	b, r := mapped(t, size, noise(t, size))
	path := writeImage(t, r)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Blocks*512 > size/2 {
		t.Errorf("%d bytes on disk of %d, a third of which is not zeros: %v", st.Blocks*512, size, err)
	}
	var v Vault
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	one, err := v.Lend(ctx, path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Release()
	two, err := v.Lend(ctx, path, true)
	if err != nil || two.Copy != one.Copy {
		t.Errorf("the second VMM gets another copy: %v", err)
	}
	two.Release()
	two.Release() // counts once
	got := make([]byte, size)
	if _, err := one.Copy.ReadAt(got, 0); err != nil || !bytes.Equal(got, b) {
		t.Errorf("the copy differs: %v", err)
	}
	if _, err := one.Copy.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("a write into the sealed copy: %v", err)
	}
	if _, err := unix.FcntlInt(one.Copy.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_FUTURE_WRITE); !errors.Is(err, unix.EPERM) {
		t.Errorf("further seals: %v", err)
	}
	// It can be mapped privately, which is what it is for.
	clone, region := mapped(t, size, one.Copy)
	clone[0]++
	if own, err := region.Own(); err != nil || Bytes(own) != PageSize {
		t.Errorf("own pages: %v, %v", own, err)
	}
	plain, err := v.Lend(ctx, path, false)
	if err != nil || plain.Copy != nil || plain.Image != one.Image {
		t.Errorf("Lend without a copy: %+v, %v", plain, err)
	}
	plain.Release()

	for name, spoil := range map[string]func(f *os.File) error{
		"a changed page":       func(f *os.File) error { _, err := f.WriteAt([]byte{^b[3*PageSize]}, 3*PageSize); return err },
		"a page that was none": func(f *os.File) error { _, err := f.WriteAt([]byte("x"), PageSize); return err },
		"cut off":              func(f *os.File) error { return f.Truncate(size) },
		"the trailer changed":  func(f *os.File) error { _, err := f.WriteAt([]byte("x"), size+20); return err },
	} {
		bad := writeImage(t, r)
		f, err := os.OpenFile(bad, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(spoil(f), f.Close()); err != nil {
			t.Fatal(err)
		}
		for _, sealed := range []bool{true, false} {
			if _, err := v.Lend(ctx, bad, sealed); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
