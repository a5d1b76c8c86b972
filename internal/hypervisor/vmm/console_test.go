package vmm

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestPunchFront(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console.log")
	line := []byte(strings.Repeat("x", 63) + "\n")
	const size, keep = 4 << 20, 1 << 20
	if err := os.WriteFile(path, bytes.Repeat(line, size/len(line)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := punchFront(path, keep); err != nil {
		t.Skipf("no holes in this file system: %v", err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Size() != size {
		t.Errorf("the size became %d: offsets are lost", fi.Size())
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || st.Blocks*512 > keep+(64<<10) {
		t.Errorf("%d bytes are still on disk", st.Blocks*512)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.HasSuffix(b, line) {
		t.Errorf("the end is lost: %v", err)
	}
}
