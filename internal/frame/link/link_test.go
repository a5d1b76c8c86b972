package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// wire is a port and what a host connects to it with: bytes survive a host that
// comes and goes, as they do in QEMU.
func wire(t *testing.T) (host, guest *os.File) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	host, guest = os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "guest")
	t.Cleanup(func() { host.Close(); guest.Close() })
	return host, guest
}

// again is a further connection to the same end of the wire: closing it leaves the
// wire and what is on it as they are.
func again(t *testing.T, f *os.File) *os.File {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	_ = raw.Control(func(old uintptr) { fd, err = syscall.Dup(int(old)) })
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}

func echo(t *testing.T, l net.Listener) {
	t.Helper()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	t.Cleanup(func() { l.Close() })
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func dial(t *testing.T, conn io.ReadWriteCloser, epoch uint64) *Session {
	t.Helper()
	s, err := Dial(within(t), conn, epoch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func roundTrip(t *testing.T, s *Session, n int) {
	t.Helper()
	c, err := s.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := make([]byte, n)
	_, _ = rand.Read(want)
	go func() { _, _ = c.Write(want) }()
	got := make([]byte, n)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("reading the echo: %v", err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("the echo differs")
	}
}

func TestRoundTrip(t *testing.T) {
	host, guest := wire(t)
	echo(t, Listen(guest))
	s := dial(t, host, 1)
	roundTrip(t, s, 1)
	roundTrip(t, s, 3<<20)
}

func TestHalfRecordsInBothDirections(t *testing.T) {
	// Whatever was cut off in whichever place, the next epoch works.
	whole := appendRecord(nil, kindData, 7, make([]byte, maxPayload))
	for _, cut := range []int{1, 3, 7, headerSize - 1, headerSize, headerSize + 1, len(whole) - 1} {
		host, guest := wire(t)
		if _, err := guest.Write(whole[:cut]); err != nil { // from the guest before a thaw
			t.Fatal(err)
		}
		if _, err := host.Write(whole[:cut]); err != nil { // from the daemon before this one
			t.Fatal(err)
		}
		echo(t, Listen(guest))
		s := dial(t, host, 8)
		roundTrip(t, s, 100_000)
		s.Close()
	}
}

func TestGarbage(t *testing.T) {
	host, guest := wire(t)
	noise := make([]byte, 50_000)
	_, _ = rand.Read(noise)
	for i := 0; i < len(noise); i += 1000 {
		copy(noise[i:], magic[:])
	}
	noise = append(noise, appendRecord(nil, kindAck, 9, make([]byte, nonceSize))...) // of another HELLO
	go func() { _, _ = guest.Write(noise); echo(t, Listen(guest)) }()
	go func() { _, _ = host.Write(noise[:40_000]) }()
	roundTrip(t, dial(t, host, 9), 1000)
}

func TestNewEpochDropsStreamsOfTheOld(t *testing.T) {
	host, guest := wire(t)
	l := Listen(guest)
	defer l.Close()
	ended := make(chan error, 1)
	accepted := make(chan struct{})
	go func() {
		c, err := l.Accept()
		if err != nil {
			ended <- err
			return
		}
		close(accepted)
		_, err = io.Copy(io.Discard, c)
		ended <- err
		echo(t, l)
	}()
	first, err := Dial(within(t), again(t, host), 1)
	if err != nil {
		t.Fatal(err)
	}
	c, err := first.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	<-accepted
	first.Close() // as a killed daemon does: the guest hears nothing of it
	select {
	case err := <-ended:
		t.Fatalf("the old stream ended before the new epoch began: %v", err)
	default:
	}
	second := dial(t, again(t, host), 2)
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the old epoch's stream lives on")
	}
	roundTrip(t, second, 1000)
}

func TestRestartedAgentEndsTheHostsSession(t *testing.T) {
	host, guest := wire(t)
	first := again(t, guest)
	l := Listen(first)
	s := dial(t, again(t, host), 1)
	first.Close() // the agent dies; its port stays
	l.Close()
	select {
	case <-s.Done():
		t.Fatal("the session ended before the new agent came")
	default:
	}
	echo(t, Listen(again(t, guest)))
	select {
	case <-s.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the host still believes in its session")
	}
	roundTrip(t, dial(t, again(t, host), 2), 1000)
}

func TestUnknownEpochIsRefused(t *testing.T) {
	host, guest := wire(t)
	echo(t, Listen(guest))
	s := dial(t, again(t, host), 1)
	roundTrip(t, s, 10)
	s.Close()
	s2 := dial(t, again(t, host), 2)
	if _, err := host.Write(appendRecord(nil, kindData, 1, []byte("late"))); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, s2, 1000) // BYE(1) does not end epoch 2
}

func TestHelloIsRepeatedUntilTheGuestIsThere(t *testing.T) {
	host, guest := wire(t)
	// The first HELLO is lost with the guest that read it.
	go func() {
		buf := make([]byte, preambleSize+headerSize+nonceSize)
		_, _ = io.ReadFull(guest, buf)
		echo(t, Listen(guest))
	}()
	roundTrip(t, dial(t, host, 1), 1000)
}

func TestDialHonoursItsContext(t *testing.T) {
	host, _ := wire(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, host, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Dial returned %v", err)
	}
}

func TestCloseIsSeenByAPeerThatWrites(t *testing.T) {
	host, guest := wire(t)
	l := Listen(guest)
	defer l.Close()
	got := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- err
			return
		}
		go func() { _, _ = io.Copy(io.Discard, c) }() // sees the close
		buf := make([]byte, 32<<10)
		for {
			if _, err := c.Write(buf); err != nil {
				got <- err
				return
			}
		}
	}()
	s := dial(t, host, 1)
	c, err := s.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	select {
	case err := <-got:
		if !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("the writer got %v, not EPIPE", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the writer never learned that its peer is gone")
	}
}

func TestPeerClosedIsKnownBeforeTheDataIsRead(t *testing.T) {
	host, guest := wire(t)
	l := Listen(guest)
	defer l.Close()
	s := dial(t, host, 1)
	c, err := s.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	there, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ended := there.(interface{ PeerClosed() <-chan struct{} }).PeerClosed()
	select {
	case <-ended:
		t.Fatal("closed before it was")
	default:
	}
	c.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the close was not seen")
	}
	if got, err := io.ReadAll(there); err != nil || string(got) != "last words" {
		t.Fatalf("read %q, %v", got, err)
	}
}

func TestCloseWakesAReader(t *testing.T) {
	host, guest := wire(t)
	echo(t, Listen(guest))
	s := dial(t, host, 1)
	c, err := s.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); got <- err }()
	c.Close()
	select {
	case err := <-got:
		if !errors.Is(err, net.ErrClosed) {
			t.Fatalf("Read returned %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Read did not return")
	}
	for deadline := time.Now().Add(10 * time.Second); s.Streams() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the stream was not given back")
		}
	}
}

func TestStalledReaderStallsOnlyItself(t *testing.T) {
	host, guest := wire(t)
	l := Listen(guest)
	defer l.Close()
	go func() {
		first, err := l.Accept()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(first, zeros{}) }()
		echo(t, l)
	}()
	s := dial(t, host, 1)
	stalled, err := s.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stalled, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, s, 4<<20)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestReadDeadline(t *testing.T) {
	host, guest := wire(t)
	echo(t, Listen(guest))
	c, err := dial(t, host, 1).Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Read returned %v", err)
	}
	_ = c.SetReadDeadline(time.Time{})
	if _, err := c.Write([]byte("y")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatalf("after the deadline was lifted: %v", err)
	}
}

// A FIFO without a writer behaves like a port without a host: read answers 0 at once.
func TestPortSleepsWhileThereIsNoHost(t *testing.T) {
	path := t.TempDir() + "/port"
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPort(f)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	got := make(chan string)
	go func() {
		for range 2 {
			buf := make([]byte, 10)
			n, err := p.Read(buf)
			if err != nil {
				got <- err.Error()
				return
			}
			got <- string(buf[:n])
		}
	}()
	for _, word := range []string{"one", "two"} { // a host that comes, goes, and comes again
		w, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteString(word); err != nil {
			t.Fatal(err)
		}
		select {
		case g := <-got:
			if g != word {
				t.Fatalf("read %q, not %q", g, word)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("nothing was read")
		}
		w.Close()
	}
}

func FuzzRecords(f *testing.F) {
	good := appendRecord(nil, kindData, 3, []byte("payload"))
	f.Add([]byte{}, 1)
	f.Add(good[:len(good)-2], 3)
	f.Add(append([]byte{0xB5, 'b', 'g', 'r', 3, 0, 0x40, 0}, good...), 7)
	f.Fuzz(func(t *testing.T, noise []byte, step int) {
		// After any noise and a preamble the next true record is found.
		stream := append(append(bytes.Clone(noise), preamble()...), appendRecord(nil, kindHello, 1<<60, []byte("0123456789abcdef"))...)
		rr := newRecordReader(&slow{stream, max(1, step&0xfff)}, nil)
		for {
			rec, err := rr.next()
			if err != nil {
				t.Fatalf("the record after the noise was lost: %v", err)
			}
			if len(rec.payload) > maxPayload {
				t.Fatal("a record is too long")
			}
			if rec.epoch == 1<<60 && rec.kind == kindHello && string(rec.payload) == "0123456789abcdef" {
				return
			}
		}
	})
}

type slow struct {
	b []byte
	n int
}

func (s *slow) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.b[:min(s.n, len(s.b))])
	s.b = s.b[n:]
	return n, nil
}

// TestGuestOfAnotherSpeech: a guest that does not say the host's speech back is spoken to without it.
func TestGuestOfAnotherSpeech(t *testing.T) {
	host, guest := wire(t)
	go func() {
		rr := newRecordReader(guest, nil)
		for {
			rec, err := rr.next()
			if err != nil {
				return
			}
			if rec.kind == kindHello {
				_, _ = guest.Write(appendRecord(nil, kindAck, rec.epoch, rec.payload[:nonceSize]))
			}
		}
	}()
	if s := dial(t, host, 1); s.brief {
		t.Error("it counts as one of the same speech")
	}
	host, guest = wire(t)
	echo(t, Listen(guest))
	if s := dial(t, host, 1); !s.brief {
		t.Error("a guest of the same speech does not count as one")
	}
}

// standing is a port that takes nothing while mu is held.
type standing struct {
	*os.File
	mu sync.Mutex
}

func (s *standing) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.File.Write(p)
}

// TestCloseDoesNotWaitForAGuestThatStands: it hears of that when it goes on.
func TestCloseDoesNotWaitForAGuestThatStands(t *testing.T) {
	host, guest := wire(t)
	l := Listen(guest)
	defer l.Close()
	port := &standing{File: host}
	s := dial(t, port, 1)
	busy, err := s.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Open(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); err != nil { // the busy one
		t.Fatal(err)
	}
	there, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(there, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	port.mu.Lock()
	written := make(chan error, 1)
	go func() { _, err := busy.Write([]byte("what the guest does not read")); written <- err }()
	closed := make(chan struct{})
	go func() { defer close(closed); _ = c.Close() }()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("Close waits for a guest that stands")
	}
	port.mu.Unlock()
	if err := <-written; err != nil {
		t.Errorf("writing to a guest that has gone on: %v", err)
	}
	_ = there.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := there.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the guest has not heard of the end: %v", err)
	}
}
