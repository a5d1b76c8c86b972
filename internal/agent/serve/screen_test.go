package serve

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestModes(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ told, before, after string }{
		"nothing":             {"hello\r\n\x1b[31mred\x1b[0m", "\x1b[H\x1b[2J", ""},
		"cursor":              {"\x1b[?25l", "\x1b[H\x1b[2J", "\x1b[?25l"},
		"there and back":      {"\x1b[?1049h\x1b[?25l..\x1b[?25h\x1b[?1049l", "\x1b[H\x1b[2J", "\x1b[?25h"},
		"several at once":     {"\x1b[?1000;1006h\x1b[?2004h", "\x1b[H\x1b[2J", "\x1b[?1000h\x1b[?1006h\x1b[?2004h"},
		"an editor":           {"\x1b[?1049h\x1b[22;0;0t\x1b[?1h\x1b=", "\x1b[?1049h\x1b[H\x1b[2J", "\x1b[?1h\x1b="},
		"unknown modes":       {"\x1b[?31337h\x1b[4h", "\x1b[H\x1b[2J", ""},
		"reset":               {"\x1b[?1049h\x1b[?25l\x1bc", "\x1b[H\x1b[2J", ""},
		"garbage":             {"\x1b[?\x1b[?;;h\x1b[?99999999999999999999h\x1b\x1b[", "\x1b[H\x1b[2J", ""},
		"a sequence for ever": {"\x1b[" + strings.Repeat("1;", 500) + "\x1b[?25l", "\x1b[H\x1b[2J", "\x1b[?25l"},
	} {
		// However the output is cut into pieces, it means the same.
		for _, size := range []int{1, 2, 3, 5, len(tt.told)} {
			var m modes
			for p := []byte(tt.told); len(p) > 0; {
				n := min(size, len(p))
				m.see(p[:n])
				p = p[n:]
			}
			if m.before() != tt.before || m.after() != tt.after {
				t.Errorf("%s in pieces of %d: %q and %q, want %q and %q", name, size, m.before(), m.after(), tt.before, tt.after)
			}
			if len(m.part) > longestSequence {
				t.Errorf("%s: %d bytes are kept", name, len(m.part))
			}
		}
	}
}

func FuzzModes(f *testing.F) {
	f.Add([]byte("\x1b[?1049h"), 3)
	f.Fuzz(func(t *testing.T, p []byte, cut int) {
		var whole, parts modes
		whole.see(p)
		cut = min(max(cut, 0), len(p))
		parts.see(p[:cut])
		parts.see(p[cut:])
		if whole.after() != parts.after() || whole.before() != parts.before() {
			t.Errorf("%q and %q", whole.after(), parts.after())
		}
	})
}

func TestLogFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "stdout.log")
	l, err := createLog(path, minLog)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	buf := make([]byte, 100)
	_, more, err := l.readAt(buf, 0)
	if err != nil || more == nil {
		t.Fatalf("%v %v", more, err)
	}
	line := []byte(strings.Repeat("x", 99) + "\n")
	for range 2000 {
		_ = l.append(line)
	}
	select {
	case <-more:
	default:
		t.Error("nobody was told that there is more")
	}
	start, size := l.bounds()
	if size != 200_000 || size-start < minLog || size-start > minLog*5/4+pageSize {
		t.Errorf("%d to %d", start, size)
	}
	if _, _, err := l.readAt(buf, start-1); !errors.Is(err, errCut) {
		t.Errorf("before the start: %v", err)
	}
	if n, _, err := l.readAt(buf, size-10); err != nil || n != 10 {
		t.Errorf("at the end: %d %v", n, err)
	}
	cut, err := os.ReadFile(strings.TrimSuffix(path, ".log") + ".cut")
	if err != nil || !strings.Contains(string(cut), "first") {
		t.Errorf("%q %v", cut, err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if at, err := logStart(f); err != nil || at != start {
		t.Errorf("the file begins at %d, not %d: %v", at, start, err)
	}
	for lines, want := range map[int64]int64{0: size, 1: size - 100, 7: size - 700, 1 << 20: start} {
		if at, err := tailOffset(f, start, lines); err != nil || at != want {
			t.Errorf("the last %d lines begin at %d, not %d: %v", lines, at, want, err)
		}
	}
	_ = l.append([]byte("no end"))
	if at, _ := tailOffset(f, start, 2); at != size-100 {
		t.Errorf("a line without an end is none: %d", at)
	}
	l.end()
	if _, _, err := l.readAt(buf, size+6); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestIsSessionID(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]bool{"main": true, "a": true, "a-": true, "9z": true, strings.Repeat("x", 63): true,
		"": false, "-a": false, ".new-a": false, "A": false, "a/b": false, "a.b": false, "é": false, strings.Repeat("x", 64): false} {
		if isSessionID(id) != want {
			t.Errorf("%q: %v", id, !want)
		}
	}
}
