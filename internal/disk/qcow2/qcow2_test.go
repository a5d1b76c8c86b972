package qcow2

import (
	"os"
	"path/filepath"
	"testing"

	"banger/internal/disk"
	"banger/internal/disk/disktest"
)

func TestDriver(t *testing.T) { disktest.Run(t, Driver{}, t.TempDir()) }

// A header with another machine's base in it must not make us look at that base.
func FuzzHeader(f *testing.F) {
	seed := filepath.Join(f.TempDir(), "seed")
	if err := (Driver{}).Create(f.Context(), disk.Spec{Path: seed, SizeBytes: 1 << 20}); err != nil {
		f.Fatal(err)
	}
	text, err := os.ReadFile(seed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text[:200])
	f.Add([]byte("QFI\xfb"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := filepath.Join(t.TempDir(), "d")
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		size, err := (Driver{}).Size(t.Context(), p)
		if err == nil && size < 0 {
			t.Fatalf("size %d", size)
		}
		const want = 1 << 30
		if err := (Driver{}).Grow(t.Context(), p, want); err == nil && size <= want {
			if got, err := (Driver{}).Size(t.Context(), p); err != nil || got != want {
				t.Fatalf("grew to %d, %v", got, err)
			}
		}
		if info, err := os.Stat(p); err != nil || info.Size() != int64(len(b)) {
			t.Fatalf("the file's size changed: %v", err)
		}
	})
}

func BenchmarkCreate(b *testing.B) {
	dir := b.TempDir()
	base := filepath.Join(dir, "base")
	if err := os.WriteFile(base, make([]byte, 1<<20), 0o444); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		p := filepath.Join(dir, "d")
		if err := (Driver{}).Create(b.Context(), disk.Spec{Path: p, Base: base, SizeBytes: 8 << 30}); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(p); err != nil {
			b.Fatal(err)
		}
	}
}
