package logbook

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, limit int64) (*Book, string, string) {
	t.Helper()
	dir := t.TempDir()
	log, index := filepath.Join(dir, "log"), filepath.Join(dir, "idx")
	b, err := Open(log, index, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b, log, index
}

func add(t *testing.T, b *Book, s Stream, text string, at time.Time) {
	t.Helper()
	if err := b.Append(s, []byte(text), at); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, log, index string, q Query) (string, int64) {
	t.Helper()
	r, at, err := Read(t.Context(), log, index, q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text), at
}

func TestReadParts(t *testing.T) {
	b, log, index := open(t, 0)
	add(t, b, Stdout, "one\ntw", noon)
	add(t, b, Stdout, "o\n", noon.Add(time.Second))
	add(t, b, Stderr, "oops\n", noon.Add(2*time.Second))
	add(t, b, Stdout, "three", noon.Add(3*time.Second))
	for _, c := range []struct {
		name string
		q    Query
		want string
		at   int64
	}{
		{"all", Query{Offset: -1, Tail: -1}, "one\ntwo\noops\nthree", 0},
		{"offset", Query{Offset: 8}, "oops\nthree", 8},
		{"beyond the end", Query{Offset: 99}, "", 18},
		{"tail with an unfinished line", Query{Offset: -1, Tail: 2}, "oops\nthree", 8},
		{"tail of none", Query{Offset: -1, Tail: 0}, "", 18},
		{"tail of more than there is", Query{Offset: -1, Tail: 50}, "one\ntwo\noops\nthree", 0},
		{"stderr", Query{Offset: -1, Tail: -1, Stream: Stderr}, "oops\n", 0},
		{"tail of stdout", Query{Offset: -1, Tail: 2, Stream: Stdout}, "two\nthree", 4},
		{"tail of stderr", Query{Offset: -1, Tail: 1, Stream: Stderr}, "oops\n", 0},
		{"times", Query{Offset: 4, Timestamps: true}, "2026-01-02T12:00:00.000Z two\n2026-01-02T12:00:02.000Z oops\n2026-01-02T12:00:03.000Z three", 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, at := read(t, log, index, c.q)
			if got != c.want || at != c.at {
				t.Errorf("got %q from %d, want %q from %d", got, at, c.want, c.at)
			}
		})
	}
}

func TestOffsetsStayWhenOldOutputIsDropped(t *testing.T) {
	b, log, index := open(t, 2*block)
	line := strings.Repeat("x", 1023) + "\n"
	for range 5 * block / len(line) {
		add(t, b, Stdout, line, noon)
	}
	add(t, b, Stdout, "the end\n", noon)
	got, at := read(t, log, index, Query{Offset: 0})
	if at == 0 || at > 3*block {
		t.Errorf("the first byte kept is at %d, want it after 0 and at most at %d", at, 3*block)
	}
	if int64(len(got)) != 5*block+8-at || !strings.HasSuffix(got, "the end\n") {
		t.Errorf("read %d bytes from %d", len(got), at)
	}
	if got, _ := read(t, log, index, Query{Offset: 5 * block}); got != "the end\n" {
		t.Errorf("at the old offset stands %q", got)
	}
	if got, _ := read(t, log, index, Query{Offset: 5 * block, Timestamps: true}); got != "2026-01-02T12:00:00.000Z the end\n" {
		t.Errorf("by the index at the old offset stands %q", got)
	}
	info, err := os.Stat(index)
	if err != nil {
		t.Fatal(err)
	}
	if most := int64((2*block/len(line) + block/len(line) + 4) * entrySize); info.Size() > most {
		t.Errorf("the index has %d bytes, want at most %d", info.Size(), most)
	}
	b.Close()
	b, err = Open(log, index, 2*block)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Written(Stdout) != 5*block+8 {
		t.Errorf("opened again, %d bytes were written, want %d", b.Written(Stdout), 5*block+8)
	}
}

func TestCrashBetweenLogAndIndex(t *testing.T) {
	b, log, index := open(t, 0)
	add(t, b, Stdout, "kept", noon)
	add(t, b, Stderr, "also", noon)
	b.Close()
	f, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("not indexed")
	f.Close()
	f, err = os.OpenFile(index, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("half")
	f.Close()
	b, err = Open(log, index, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Written(Stdout) != 4 || b.Written(Stderr) != 4 {
		t.Errorf("written %d and %d, want 4 and 4", b.Written(Stdout), b.Written(Stderr))
	}
	add(t, b, Stdout, "!", noon)
	if got, _ := read(t, log, index, Query{Offset: -1, Tail: -1}); got != "keptalso!" {
		t.Errorf("log is %q", got)
	}
}

func TestFollow(t *testing.T) {
	b, log, index := open(t, 0)
	add(t, b, Stdout, "first\n", noon)
	more := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, _, err := Read(ctx, log, index, Query{Offset: -1, Tail: -1, More: more, Stream: Stdout})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	buf := make([]byte, 64)
	n, err := r.Read(buf)
	if err != nil || string(buf[:n]) != "first\n" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
	add(t, b, Stderr, "not this\n", noon)
	add(t, b, Stdout, "second\n", noon)
	if n, err = r.Read(buf); err != nil || string(buf[:n]) != "second\n" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
	add(t, b, Stdout, "last\n", noon)
	close(more)
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(rest, []byte("last\n")) {
		t.Fatalf("read %q, %v", rest, err)
	}
}
