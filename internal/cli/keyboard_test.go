package cli

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestDetachFilter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		typed    []string
		out      string
		detached bool
	}{
		{[]string{"hello"}, "hello", false},
		{[]string{"a\x10\x11b"}, "a", true},
		{[]string{"a\x10", "\x11"}, "a", true},
		{[]string{"\x10", "x"}, "\x10x", false},
		{[]string{"\x10\x10\x11"}, "\x10", true},
		{[]string{"\x10\x10x"}, "\x10\x10x", false},
		{[]string{"\x11\x10"}, "\x11", false},
	} {
		var f detachFilter
		out, detached := "", false
		for _, p := range tt.typed {
			more, now := f.pass([]byte(p))
			out, detached = out+string(more), detached || now
		}
		if out != tt.out || detached != tt.detached {
			t.Errorf("%q: %q %v", tt.typed, out, detached)
		}
	}
}

// TestKeyboard: what is typed goes to one connection after the other, and nothing of it is lost between them.
func TestKeyboard(t *testing.T) {
	t.Parallel()
	in, out := io.Pipe()
	detached := make(chan struct{})
	k := listen(in, func() { close(detached) }, true)
	read := func(r io.Reader) string {
		t.Helper()
		buf := make([]byte, 3)
		n, err := io.ReadFull(r, buf)
		if err != nil {
			t.Fatalf("%q %v", buf[:n], err)
		}
		return string(buf)
	}
	first, leave := k.reader()
	go out.Write([]byte("onetwo")) //nolint:errcheck // a pipe of the test's own
	if got := read(first); got != "one" {
		t.Errorf("%q", got)
	}
	leave()
	if n, err := first.Read(make([]byte, 3)); n != 0 || err != io.EOF { //nolint:errorlint // the very value
		t.Errorf("one that has left reads %d, %v", n, err)
	}
	next, leave := k.reader()
	defer leave()
	if got := read(next); got != "two" {
		t.Errorf("%q", got)
	}
	go out.Write([]byte("xyz\x10\x11")) //nolint:errcheck // as above
	if got := read(next); got != "xyz" {
		t.Errorf("%q", got)
	}
	select {
	case <-detached:
	case <-time.After(10 * time.Second):
		t.Error("nobody was told")
	}
	// The end of what is not a terminal is no detaching.
	k = listen(strings.NewReader("\x10\x11"), func() { t.Error("detached") }, false)
	r, leave := k.reader()
	defer leave()
	if all, err := io.ReadAll(r); string(all) != "\x10\x11" || err != nil {
		t.Errorf("%q %v", all, err)
	}
}

// TestKeyboardAgain: connections break at any moment, and what had been handed out to them has come to the other end in part: it gets
// every byte once.
func TestKeyboardAgain(t *testing.T) {
	t.Parallel()
	typed := make([]byte, 3*keyboardKeeps)
	for i := range typed {
		typed[i] = byte(i>>16) ^ byte(i>>8) ^ byte(i)
	}
	k := listen(bytes.NewReader(typed), nil, false)
	var arrived []byte
	for ended := false; !ended; {
		r, leave := k.reader()
		if from := r.resume(int64(len(arrived))); from != int64(len(arrived)) {
			t.Fatalf("%d bytes have arrived, and it goes on from %d", len(arrived), from)
		}
		want := rand.IntN(keyboardKeeps)
		got, err := io.ReadAll(io.LimitReader(r, int64(want)))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 && want > 0 {
			ended = true
		}
		if !ended && len(got) == want { // the rest was on its way
			got = got[:rand.IntN(want+1)]
		}
		arrived = append(arrived, got...)
		leave()
	}
	if !bytes.Equal(arrived, typed) {
		t.Errorf("%d bytes have arrived of %d", len(arrived), len(typed))
	}
	r, leave := k.reader()
	defer leave()
	if from := r.resume(1); from < 1 || from > int64(len(typed)-keyboardKeeps) {
		t.Errorf("of what was handed out long ago it keeps what is from %d on", from)
	}
	if from := r.resume(1 << 40); from != int64(len(typed)) {
		t.Errorf("it goes on from %d", from)
	}
	if from := r.resume(-1); from != int64(len(typed)) {
		t.Errorf("from nobody knows where it goes on at %d", from)
	}
}

// TestKeyboardBetween: with no connection, the keys that detach are seen behind what was typed.
func TestKeyboardBetween(t *testing.T) {
	t.Parallel()
	in, out := io.Pipe()
	detached := make(chan struct{})
	k := listen(in, func() { close(detached) }, true)
	for _, p := range []string{"typed", "\x10\x11"} {
		if _, err := out.Write([]byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-detached:
	case <-time.After(time.Minute):
		t.Error("it waits for somebody who takes what was typed")
	}
	r, leave := k.reader()
	defer leave()
	buf := make([]byte, 9)
	if n, err := r.Read(buf); string(buf[:n]) != "typed" || err != nil {
		t.Errorf("%q %v", buf[:n], err)
	}
}
