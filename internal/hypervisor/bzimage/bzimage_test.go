package bzimage

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"testing"
)

// packed is a bzImage with the given payload.
func packed(payload []byte) []byte {
	image := make([]byte, 3*512)
	image[0x1f1] = 2
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(image[0x248:], 100)
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(payload)))
	return append(append(append(image, make([]byte, 100)...), payload...), "what follows"...)
}

// sized ends a payload by the length that it unpacks to.
func sized(payload []byte, n int) []byte { return binary.LittleEndian.AppendUint32(payload, uint32(n)) }

// legacy is an LZ4 legacy frame of blocks.
func legacy(blocks ...[]byte) []byte {
	out := binary.LittleEndian.AppendUint32(nil, lz4Magic)
	for _, b := range blocks {
		out = append(binary.LittleEndian.AppendUint32(out, uint32(len(b))), b...)
	}
	return out
}

func TestLZ4(t *testing.T) {
	// Literals "\x7fELFab", then 2 back for 7, literals "XY"; in a second block 20 literals, and from its begin 300.
	one := []byte("\x63\x7fELFab\x02\x00\x20XY")
	two := append(append([]byte{0xff, 5}, "01234567890123456789"...), 20, 0, 255, 26, 0x10, '!')
	want := "\x7fELFababababaXY" + "01234567890123456789"
	for i := range 300 {
		want += string("01234567890123456789"[i%20])
	}
	want += "!"
	got, err := Unpack(packed(sized(legacy(one, two), len(want))))
	if err != nil || string(got) != want {
		t.Fatalf("%q, %v; want %q", got, err, want)
	}
	// Whatever is cut off or changed: an error or another text, never a panic.
	whole := packed(sized(legacy(one, two), len(want)))
	for i := range whole {
		_, _ = Unpack(whole[:i])
		for _, b := range []byte{0, 0xff, whole[i] + 1} {
			c := bytes.Clone(whole)
			c[i] = b
			_, _ = Unpack(c)
		}
	}
	if got, err := Unpack(packed(sized(legacy(one, two), len(want)-1))); err == nil {
		t.Errorf("a wrong length gave %q", got)
	}
}

func TestGzip(t *testing.T) {
	want := append([]byte("\x7fELF"), bytes.Repeat([]byte("kernel"), 1000)...)
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil { // gzip's own last four bytes are the length
		t.Fatal(err)
	}
	got, err := Unpack(packed(b.Bytes()))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatal(len(got), err)
	}
}

func TestOthersAreUnknown(t *testing.T) {
	for name, image := range map[string][]byte{
		"an ELF file": append([]byte("\x7fELF"), make([]byte, 4096)...), "nothing": nil, "xz": packed(sized([]byte("\xfd7zXZ\x00 and so on"), 5)),
	} {
		if _, err := Unpack(image); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(packed(sized(legacy([]byte("\x63\x7fELFab\x02\x00\x20XY")), 15)))
	f.Fuzz(func(_ *testing.T, image []byte) {
		if len(image) > 0x250 {
			_, _ = Unpack(image)
		}
	})
}
