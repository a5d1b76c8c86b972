package frame

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/api"
)

func TestWireFormat(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	if err := errors.Join(w.Write(Stdout, []byte("hi")), w.Write(Stderr, nil), w.Control(api.Control{Type: api.ControlEOF})); err != nil {
		t.Fatal(err)
	}
	want := "\x02\x00\x00\x00\x02hi" + "\x03\x00\x00\x00\x00" + "\x04\x00\x00\x00\x0e" + `{"type":"eof"}`
	if b.String() != want {
		t.Errorf("%q", b.String())
	}
}

func TestLongWritesAreSplit(t *testing.T) {
	var b bytes.Buffer
	want := make([]byte, 3*MaxPayload+17)
	_, _ = rand.Read(want)
	n, err := NewWriter(&b).Channel(Stdin).Write(want)
	if err != nil || n != len(want) {
		t.Fatal(n, err)
	}
	var got []byte
	r := NewReader(&b)
	for {
		f, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || f.Channel != Stdin || len(f.Payload) > MaxPayload {
			t.Fatal(f.Channel, len(f.Payload), err)
		}
		got = append(got, f.Payload...)
	}
	if !bytes.Equal(got, want) {
		t.Error("the bytes differ")
	}
}

func TestBadFrames(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		code api.Code
		err  error
	}{
		"empty":          {"", "", io.EOF},
		"half a header":  {"\x01\x00", "", io.ErrUnexpectedEOF},
		"half a payload": {"\x01\x00\x00\x00\x05ab", "", io.ErrUnexpectedEOF},
		"no payload":     {"\x01\x00\x00\x00\x05", "", io.ErrUnexpectedEOF},
		"too long":       {"\x01\x00\x01\x00\x01", api.CodeInvalid, nil},
		"far too long":   {"\x01\xff\xff\xff\xff", api.CodeInvalid, nil},
		"channel 0":      {"\x00\x00\x00\x00\x00", api.CodeInvalid, nil},
		"channel 9":      {"\x09\x00\x00\x00\x00", api.CodeInvalid, nil},
	} {
		_, err := NewReader(strings.NewReader(c.in)).Read()
		if c.err != nil && !errors.Is(err, c.err) || c.code != "" && api.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := NewReader(io.MultiReader(strings.NewReader("\x01\x00\x01\x00\x00"), strings.NewReader(strings.Repeat("x", MaxPayload))))
	if f, err := long.Read(); err != nil || len(f.Payload) != MaxPayload {
		t.Errorf("the longest frame: %v", err)
	}
	if _, err := (Frame{Channel: Stdin, Payload: []byte("{}")}).Control(); api.CodeOf(err) != api.CodeInvalid {
		t.Error(err)
	}
	if _, err := (Frame{Channel: Control, Payload: []byte("no JSON")}).Control(); api.CodeOf(err) != api.CodeInvalid {
		t.Error(err)
	}
	if err := NewWriter(io.Discard).Control(api.Control{Signal: strings.Repeat("x", MaxPayload)}); api.CodeOf(err) != api.CodeInvalid {
		t.Error(err)
	}
}

func TestConcurrentWritersKeepFramesWhole(t *testing.T) {
	a, b := net.Pipe()
	w := NewWriter(a)
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for n := range 200 {
				_ = w.Write(Stdout, bytes.Repeat([]byte{byte(i)}, n))
			}
		})
	}
	go func() { writers.Wait(); a.Close() }()
	r := NewReader(b)
	frames := 0
	for {
		f, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Payload) > 0 && bytes.Count(f.Payload, f.Payload[:1]) != len(f.Payload) {
			t.Fatal("two frames are mixed")
		}
		frames++
	}
	if frames != 8*200 {
		t.Errorf("%d frames", frames)
	}
}

func TestDuplex(t *testing.T) {
	x, y := net.Pipe()
	a, b := NewDuplex(x, x), NewDuplex(y, y)
	go func() {
		_, _ = io.WriteString(a, strings.Repeat("there ", 30_000))
		_ = a.CloseWrite()
		_ = a.CloseWrite() // once is enough
	}()
	got, err := io.ReadAll(b)
	if err != nil || string(got) != strings.Repeat("there ", 30_000) {
		t.Fatal(len(got), err)
	}
	go func() {
		_, _ = io.WriteString(b, "back")
		b.Close() // without CloseWrite
	}()
	got, err = io.ReadAll(a)
	if string(got) != "back" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the next Read: %v", err)
	}
}

func TestDuplexDeadline(t *testing.T) {
	x, y := net.Pipe()
	a, b := NewDuplex(x, x), NewDuplex(y, y)
	defer a.Close()
	defer b.Close()
	_ = a.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	var timeout net.Error
	if _, err := a.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatal(err)
	}
	_ = a.SetReadDeadline(time.Time{})
	go func() { _, _ = b.Write([]byte("x")) }()
	if _, err := io.ReadFull(a, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00\x02hi\x04\x00\x00\x00\x0e{\"type\":\"eof\"}"))
	f.Add([]byte("\x01\x00\x01\x00\x01"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data))
		var again bytes.Buffer
		w := NewWriter(&again)
		for {
			fr, err := r.Read()
			if err != nil {
				break
			}
			if len(fr.Payload) > MaxPayload {
				t.Fatal("a frame is too long")
			}
			_, _ = fr.Control()
			if err := w.Write(fr.Channel, fr.Payload); err != nil {
				t.Fatal(err)
			}
		}
		// What was read is what stood there.
		if !bytes.HasPrefix(data, again.Bytes()) {
			t.Fatal("the frames written again differ")
		}
	})
}
