package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := openLog(path, 100, -1)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 39) + "\n"
	for range 7 {
		if _, err := l.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// Two lines fit into a file: three files were filled, the last is begun, the first is gone.
	for name, want := range map[string]string{path: line, path + ".1": line + line} {
		if text, err := os.ReadFile(name); err != nil || string(text) != want {
			t.Errorf("%s is %q, %v", name, text, err)
		}
	}
	// Another daemon goes on where this one ended.
	if l, err = openLog(path, 100, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Write([]byte("more\n")); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != line+"more\n" {
		t.Errorf("%q, %v", text, err)
	}
}
