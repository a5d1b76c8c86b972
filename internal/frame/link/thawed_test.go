package link

import (
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// thawedStream is what Listen's streams tell of a thaw.
type thawedStream interface {
	net.Conn
	PeerClosed() <-chan struct{}
	Thawed() bool
}

// accepted opens a stream and returns both its ends.
func accepted(t *testing.T, s *Session, l net.Listener) (host net.Conn, guest thawedStream) {
	t.Helper()
	host, err := s.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := host.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	guest = c.(thawedStream)
	if _, err := io.ReadFull(guest, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return host, guest
}

func peerClosed(t *testing.T, c thawedStream) {
	t.Helper()
	select {
	case <-c.PeerClosed():
	case <-time.After(10 * time.Second):
		t.Fatal("the stream has not ended")
	}
}

func TestThawedStreamsHaveNotBeenLetGo(t *testing.T) {
	for _, thawed := range []bool{true, false} {
		host, guest := wire(t)
		l := Listen(guest)
		defer l.Close()
		first, err := Dial(within(t), again(t, host), 1)
		if err != nil {
			t.Fatal(err)
		}
		let, letGuest := accepted(t, first, l)
		_, kept := accepted(t, first, l)
		_ = let.Close() // a client that leaves before the freeze
		peerClosed(t, letGuest)
		_ = first.Close()

		greet := Dial
		if thawed {
			greet = func(ctx context.Context, conn io.ReadWriteCloser, epoch uint64) (*Session, error) {
				return DialThawed(ctx, conn, epoch, nil)
			}
		}
		second, err := greet(within(t), again(t, host), 2)
		if err != nil {
			t.Fatal(err)
		}
		peerClosed(t, kept)
		if kept.Thawed() != thawed {
			t.Errorf("a stream that was open: thawed %v, want %v", kept.Thawed(), thawed)
		}
		if letGuest.Thawed() {
			t.Error("a stream whose peer had left counts as lost to the thaw")
		}
		_, next := accepted(t, second, l)
		if next.Thawed() {
			t.Error("a stream of the new epoch counts as lost to the thaw")
		}
		if thawed { // the next daemon is an ordinary one
			_ = second.Close()
			if _, err := Dial(within(t), again(t, host), 3); err != nil {
				t.Fatal(err)
			}
			peerClosed(t, next)
			if next.Thawed() {
				t.Error("a killed daemon counts as a thaw")
			}
		}
	}
}

func TestHelloOfBothLengths(t *testing.T) {
	// What comes behind the flags is for a later version.
	host, guest := wire(t)
	echo(t, Listen(guest))
	rec := appendRecord(nil, kindHello, 5, make([]byte, nonceSize), []byte{helloThawed, 0, 7})
	if _, err := host.Write(rec); err != nil {
		t.Fatal(err)
	}
	want := appendRecord(nil, kindAck, 5, make([]byte, nonceSize))
	rr := newRecordReader(host, nil)
	for {
		got, err := rr.next()
		if err != nil {
			t.Fatal(err)
		}
		if got.kind == kindAck {
			if string(appendRecord(nil, got.kind, got.epoch, got.payload)) != string(want) {
				t.Fatalf("the answer is %+v", got)
			}
			return
		}
	}
}

// TestRest: the next epoch finds its session made, and a rest that comes too late, in that epoch, leaves it alone.
func TestRest(t *testing.T) {
	host, guest := net.Pipe()
	l := Listen(guest)
	t.Cleanup(func() { _ = l.Close(); _ = host.Close() })
	if l.Rest()(); l.spare.Load() != nil {
		t.Error("nobody has called yet, and there is nothing to rest from")
	}
	first := l.begin(1, []byte("one"))
	early, late := l.Rest(), l.Rest()
	early()
	select {
	case <-first.gone:
	default:
		t.Error("the epoch goes on")
	}
	made := l.spare.Load()
	if made == nil || made.mux == nil {
		t.Fatal("no session was made")
	}
	second := l.begin(2, []byte("two"))
	late()
	if second != made || second.epoch != 2 || l.current.Load() != second || l.spare.Load() != nil {
		t.Errorf("the epoch is %+v", second)
	}
	select {
	case <-second.gone:
		t.Error("a rest from an earlier epoch has ended this one")
	default:
	}
}
