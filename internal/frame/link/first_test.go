package link

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// accept takes the next stream in the background.
func accept(t *testing.T, l net.Listener) <-chan net.Conn {
	t.Helper()
	got := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			got <- c
		}
	}()
	return got
}

func TestWhatComesWithTheGreetingIsAnswered(t *testing.T) {
	host, guest := wire(t)
	l := Listen(guest)
	defer l.Close()
	got := accept(t, l)
	said := bytes.Repeat([]byte{magic[0], 'x'}, MaxFirst/2)
	s, err := DialThawed(within(t), again(t, host), 1, said)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := <-got
	if heard, err := io.ReadAll(c); err != nil || !bytes.Equal(heard, said) {
		t.Fatalf("the guest heard %d bytes of %d, %v", len(heard), len(said), err)
	}
	early, cancel := context.WithTimeout(within(t), 10*time.Millisecond)
	defer cancel()
	if a, err := s.Answer(early); err == nil {
		t.Fatalf("an answer before there is one: %q", a)
	}
	if _, err := c.Write(make([]byte, MaxFirst+1)); err == nil {
		t.Fatal("more was taken than a record holds")
	}
	for _, word := range []string{"well", "come"} {
		if _, err := c.Write([]byte(word)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // is answered once
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if a, err := s.Answer(within(t)); err != nil || string(a) != "wellcome" {
		t.Fatalf("%q, %v", a, err)
	}
	echo(t, l)
	roundTrip(t, s, 1000)
}

func TestARepeatedGreetingIsOneCall(t *testing.T) {
	host, guest := wire(t)
	l := Listen(guest)
	defer l.Close()
	hello := appendRecord(nil, kindHello, 5, make([]byte, nonceSize), []byte{helloThawed | helloSpeech | helloFirst, Speech}, []byte("who"))
	for range 3 {
		if _, err := host.Write(hello); err != nil {
			t.Fatal(err)
		}
	}
	got := accept(t, l)
	c := <-got
	again := accept(t, l)
	rr, acks := newRecordReader(host, nil), 0
	for acks < 3 {
		rec, err := rr.next()
		if err != nil {
			t.Fatal(err)
		}
		if rec.kind == kindAck {
			acks++
		}
	}
	_ = c.Close()
	if rec, err := rr.next(); err != nil || rec.kind != kindAnswer || len(rec.payload) != 0 {
		t.Fatalf("%+v, %v", rec, err)
	}
	select {
	case <-again:
		t.Error("the guest was told twice")
	case <-time.After(50 * time.Millisecond):
	}
}

func TestNoAnswerAfterTheSession(t *testing.T) {
	host, guest := wire(t)
	l := Listen(guest)
	defer l.Close()
	got := accept(t, l)
	s, err := DialThawed(within(t), again(t, host), 1, []byte("who"))
	if err != nil {
		t.Fatal(err)
	}
	c := <-got
	_ = s.Close()
	if a, err := s.Answer(within(t)); err == nil {
		t.Errorf("answered %q after the end", a)
	}
	next := dial(t, again(t, host), 2)
	if err := c.Close(); err == nil { // of an epoch that is over
		t.Error("an answer left for a host that is gone")
	}
	if a, err := next.Answer(within(t)); a != nil || err != nil {
		t.Errorf("a session that asked nothing has the answer %q, %v", a, err)
	}
}
