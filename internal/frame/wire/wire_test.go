package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"banger/internal/frame/link"
)

// hostile stands between host and guest: real sockets, whose connections it resets, with all that is on its way in them.
type hostile struct {
	t     *testing.T
	path  string
	guest *Wire
	gone  chan struct{} // gets one for each call of Serve's gone
	// cuts counts the connections that were reset; calm: no more are. longest bounds what one carries, in bytes.
	cuts    atomic.Int64
	calm    atomic.Bool
	longest int64

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func between(t *testing.T, longest int64, goneAfter time.Duration) *hostile {
	t.Helper()
	h := &hostile{t: t, guest: Listen(goneAfter), gone: make(chan struct{}, 100), longest: longest, conns: map[net.Conn]struct{}{}}
	h.path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", h.path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = h.guest.Serve(l, func() { h.gone <- struct{}{} }) }()
	t.Cleanup(func() { _ = l.Close(); h.cut(); <-served })
	return h
}

func (h *hostile) host(life context.Context) *Wire {
	h.t.Helper()
	w, err := Dial(h.t.Context(), life, h.connect)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = w.Close() })
	return w
}

func (h *hostile) connect(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	far, err := d.DialContext(ctx, "unix", h.path)
	if err != nil {
		return nil, err
	}
	near, mine := pair(h.t)
	h.mu.Lock()
	h.conns[far], h.conns[mine] = struct{}{}, struct{}{}
	h.mu.Unlock()
	left := new(atomic.Int64)
	left.Store(1 + rand.Int64N(h.longest))
	end := sync.OnceFunc(func() { _ = far.Close(); _ = mine.Close(); h.cuts.Add(1) })
	carry := func(to, from net.Conn) {
		defer end()
		buf := make([]byte, 8<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if !h.calm.Load() {
				if after := left.Add(-int64(n)); after < 0 {
					_, _ = to.Write(buf[:max(0, int64(n)+after)]) // the rest is lost
					return
				}
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	go carry(far, mine)
	go carry(mine, far)
	return near, nil
}

func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "p"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("unix", l.Addr().String()); err == nil {
		b, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// inbox reads a wire to its end, as package link does, whether anybody wants what comes or not.
type inbox struct{ *io.PipeReader }

func reads(w *Wire) inbox {
	// What nobody has taken yet.
	var mu sync.Mutex
	var held bytes.Buffer
	more := sync.NewCond(&mu)
	var over error
	r, pw := io.Pipe()
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := w.Read(buf[:1+rand.IntN(1<<rand.IntN(17))])
			mu.Lock()
			held.Write(buf[:n])
			over = err
			more.Signal()
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	go func() {
		for {
			mu.Lock()
			for held.Len() == 0 && over == nil {
				more.Wait()
			}
			p, why := bytes.Clone(held.Next(64<<10)), over
			mu.Unlock()
			if len(p) == 0 {
				_ = pw.CloseWithError(why)
				return
			}
			if _, err := pw.Write(p); err != nil {
				return
			}
		}
	}()
	return inbox{r}
}

func (h *hostile) cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		_ = c.Close()
	}
	clear(h.conns)
}

func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// within fails a test that stands still.
func within(t *testing.T, what string, do func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	case <-time.After(5 * time.Minute): // only a defect takes that long
		t.Fatalf("%s: it stands still", what)
	}
}

func writeAll(w io.Writer, data []byte) error {
	for len(data) > 0 {
		n := min(len(data), 1+rand.IntN(1<<rand.IntN(18)))
		if m, err := w.Write(data[:n]); err != nil || m != n {
			return errors.Join(io.ErrShortWrite, err)
		}
		data = data[n:]
	}
	return nil
}

func readAll(r io.Reader, want []byte) error {
	got := make([]byte, len(want))
	for n := 0; n < len(got); {
		m, err := r.Read(got[n:min(len(got), n+1+rand.IntN(1<<rand.IntN(18)))])
		if n += m; err != nil {
			return err
		}
	}
	if !bytes.Equal(got, want) {
		return errors.New("that is not what was written")
	}
	return nil
}

// TestEveryByteOnce: both ways at once, over connections that are reset at any byte.
func TestEveryByteOnce(t *testing.T) {
	t.Parallel()
	for longest, size := range map[int64]int{300: 10_000, 5_000: 200_000, 300_000: 4 << 20} {
		h := between(t, longest, time.Hour)
		w := h.host(t.Context())
		atHost, atGuest := reads(w), reads(h.guest)
		// What the guest writes before it has taken a host, nobody gets.
		within(t, "the first byte", func() error { return errors.Join(writeAll(w, []byte("x")), readAll(atGuest, []byte("x"))) })
		there, back := noise(size), noise(size)
		var all sync.WaitGroup
		all.Go(func() { within(t, "host writes", func() error { return writeAll(w, there) }) })
		all.Go(func() { within(t, "guest writes", func() error { return writeAll(h.guest, back) }) })
		all.Go(func() { within(t, "guest reads", func() error { return readAll(atGuest, there) }) })
		all.Go(func() { within(t, "host reads", func() error { return readAll(atHost, back) }) })
		all.Wait()
		if h.cuts.Load() < 10 {
			t.Errorf("of %d bytes at most %d went over one connection, and %d broke", 2*size, longest, h.cuts.Load())
		}
		w.mu.Lock()
		if w.kept.n > window || len(w.kept.b) > window {
			t.Errorf("%d bytes are kept", len(w.kept.b))
		}
		w.mu.Unlock()
	}
}

// TestCut: the side that knows says so, and the other one may not notice anything.
func TestCut(t *testing.T) {
	t.Parallel()
	h := between(t, 1<<40, time.Hour)
	w := h.host(t.Context())
	atHost, atGuest := reads(w), reads(h.guest)
	data := noise(1 << 20)
	stop := make(chan struct{})
	var cutter sync.WaitGroup
	cutter.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(rand.IntN(3000)) * time.Microsecond):
				w.Cut()
			}
		}
	})
	for range 3 {
		var all sync.WaitGroup
		all.Go(func() { within(t, "host writes", func() error { return writeAll(w, data) }) })
		all.Go(func() {
			within(t, "echo", func() error { _, err := io.CopyN(h.guest, atGuest, int64(len(data))); return err })
		})
		all.Go(func() { within(t, "host reads", func() error { return readAll(atHost, data) }) })
		all.Wait()
	}
	close(stop)
	cutter.Wait()
}

// TestSlowReader: a writer waits for one who does not read, and both directions at once come to no deadlock.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	h := between(t, 1<<40, time.Hour)
	w := h.host(t.Context())
	data := noise(4 * window)
	var written atomic.Int64
	var all sync.WaitGroup
	all.Go(func() {
		within(t, "host writes", func() error {
			for p := data; len(p) > 0; p = p[1024:] {
				if _, err := w.Write(p[:1024]); err != nil {
					return err
				}
				written.Add(1024)
			}
			return nil
		})
	})
	time.Sleep(200 * time.Millisecond) // it has come to a halt, or will: at most that much
	if n := written.Load(); n > window {
		t.Errorf("%d bytes were written of which none was read", n)
	}
	atHost, atGuest := reads(w), reads(h.guest)
	all.Go(func() { within(t, "guest writes", func() error { return writeAll(h.guest, data) }) })
	all.Go(func() { within(t, "guest reads", func() error { return readAll(atGuest, data) }) })
	all.Go(func() { within(t, "host reads", func() error { return readAll(atHost, data) }) })
	all.Wait()
}

// TestNewHost: of a host that another has taken the place of, nothing is left, and it cannot come again.
func TestNewHost(t *testing.T) {
	t.Parallel()
	h := between(t, 1<<40, time.Hour)
	atGuest := reads(h.guest)
	old := h.host(t.Context())
	atOld := reads(old)
	within(t, "the old one", func() error { return errors.Join(writeAll(old, []byte("old")), readAll(atGuest, []byte("old"))) })
	within(t, "the old one", func() error {
		return errors.Join(writeAll(h.guest, []byte("for the old one")), readAll(atOld, []byte("for the old one")))
	})
	next := h.host(t.Context())
	within(t, "the new one", func() error { return errors.Join(writeAll(next, []byte("new")), readAll(atGuest, []byte("new"))) })
	old.Cut()
	within(t, "the old one", func() error {
		if _, err := io.Copy(io.Discard, atOld); err == nil || !errors.Is(err, errUnknown) {
			return errors.Join(errors.New("it came again"), err)
		}
		return nil
	})
	within(t, "the new one still", func() error {
		return errors.Join(writeAll(h.guest, []byte("answer")), readAll(next, []byte("answer")))
	})
	if len(h.gone) != 0 {
		t.Error("a host is gone for good, it is said, though another has taken its place")
	}
}

// TestGone: when no host comes again for a while, or when it says bye, the wire is over; the next one is a new wire.
func TestGone(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(h *hostile, w *Wire, end context.CancelFunc){
		"bye": func(_ *hostile, w *Wire, _ context.CancelFunc) { _ = w.Close() },
		"killed": func(h *hostile, w *Wire, _ context.CancelFunc) {
			w.mu.Lock()
			w.redial = func() {} // it does nothing any more
			w.mu.Unlock()
			h.cut()
		},
		"the guest is gone": func(_ *hostile, _ *Wire, end context.CancelFunc) { end() },
	} {
		h := between(t, 1<<40, 200*time.Millisecond)
		atGuest := reads(h.guest)
		life, end := context.WithCancel(t.Context())
		w := h.host(life)
		_ = reads(w)
		within(t, name, func() error { return errors.Join(writeAll(w, []byte("x")), readAll(atGuest, []byte("x"))) })
		begin := time.Now()
		leave(h, w, end)
		within(t, name, func() error { <-h.gone; return nil })
		if name == "killed" && time.Since(begin) < 150*time.Millisecond {
			t.Errorf("it was not waited for")
		}
		next := h.host(t.Context())
		within(t, "after "+name, func() error { return errors.Join(writeAll(next, []byte("y")), readAll(atGuest, []byte("y"))) })
		end()
	}
}

// TestStreams: what package link makes of it survives as well: many streams, each with every byte once, and their ends.
func TestStreams(t *testing.T) {
	t.Parallel()
	h := between(t, 100_000, time.Hour)
	l := link.Listen(h.guest)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	var s *link.Session
	within(t, "link.Dial", func() (err error) { s, err = link.Dial(t.Context(), h.host(t.Context()), 1); return err })
	if t.Failed() {
		return
	}
	defer s.Close()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			within(t, "a stream", func() error {
				c, err := s.Open(t.Context())
				if err != nil {
					return err
				}
				defer c.Close()
				data := noise(200_000)
				go func() { _ = writeAll(c, data) }()
				if err := readAll(c, data); err != nil {
					return err
				}
				_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
				if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
					return errors.Join(errors.New("no deadline"), err)
				}
				return nil
			})
		})
	}
	all.Wait()
	if h.cuts.Load() < 10 {
		t.Errorf("%d connections broke", h.cuts.Load())
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func TestRing(t *testing.T) {
	t.Parallel()
	var r ring
	var want []byte
	for range 20_000 {
		if n := rand.IntN(1 << rand.IntN(18)); n <= r.room() {
			p := noise(min(n, 300))
			r.add(p)
			want = append(want, p...)
		}
		if n := rand.IntN(len(want) + 1); rand.IntN(3) == 0 {
			r.drop(n)
			want = want[n:]
		}
		from := rand.IntN(len(want) + 1)
		got := make([]byte, len(want)-from)
		if r.copyOut(got, from); !bytes.Equal(got, want[from:]) || r.n != len(want) {
			t.Fatalf("%d bytes are kept, and not the %d that were put", r.n, len(want))
		}
	}
}

// FuzzGuest: whatever the guest says, the host's end neither panics nor stands still.
func FuzzGuest(f *testing.F) {
	f.Add(appendAnswer(nil, sayYes, 0), []byte("hello"))
	f.Add(append(appendHeader(appendAnswer(nil, sayYes, 0), 3, 5), "abc"...), []byte("hello"))
	f.Add(append(appendHeader(appendAnswer(nil, sayYes, 0), 3, 6), "abc"...), []byte("hello"))
	f.Add(appendHeader(appendAnswer(nil, sayYes, 0), bye, 0), []byte{})
	f.Add(appendAnswer(nil, sayNo, 1<<63), []byte{})
	f.Fuzz(func(t *testing.T, said, ours []byte) {
		tries := 0
		w, err := Dial(t.Context(), t.Context(), func(context.Context) (net.Conn, error) {
			if tries++; tries > 3 {
				return nil, io.ErrClosedPipe
			}
			a, b := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, b) }()
			go func() { _, _ = b.Write(said); _ = b.Close() }()
			return a, nil
		})
		if err != nil {
			return // it said nothing, and hung up
		}
		go func() { _, _ = w.Write(ours) }()
		within(t, "read", func() error { _, _ = io.Copy(io.Discard, w); return nil })
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.err == nil || w.first > w.sent || w.kept.n > window {
			t.Errorf("%v: %d to %d, %d kept", w.err, w.first, w.sent, w.kept.n)
		}
	})
}

// FuzzHost: the same of the guest's end.
func FuzzHost(f *testing.F) {
	var x hello
	x.say, x.id[0] = sayNew, 1
	f.Add(x.append(nil), append(appendHeader(nil, 3, 0), "abc"...))
	f.Add(x.append(nil), appendHeader(nil, bye, 0))
	f.Add(x.append(nil), appendHeader(nil, maxFrame+1, 0))
	x.say = sayAgain
	f.Add(x.append(nil), []byte{})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		w := Listen(time.Hour)
		w.gone = func() {}
		go func() { _, _ = io.Copy(io.Discard, w) }()
		for _, said := range [][]byte{first, append(bytes.Clone(first), second...)} {
			a, b := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, b) }()
			go func() { _, _ = b.Write(said); _ = b.Close() }()
			within(t, "take", func() error { w.take(newTransport(a)); return nil })
		}
		within(t, "write and close", func() error { _, _ = w.Write(second); return w.Close() })
	})
}
