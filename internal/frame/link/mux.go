package link

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
)

// muxConfig is the same on both sides.
func muxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = 365 * 24 * time.Hour // a paused guest reads nothing for as long as it likes
	c.StreamOpenTimeout = 0
	// A stream that one side has closed is reset when the other has not followed by then.
	c.StreamCloseTimeout = 30 * time.Second
	// A port moves 55-70 MB/s; this is what a stalled reader may hold in the guest's memory.
	c.MaxStreamWindowSize = 1 << 20
	c.LogOutput = io.Discard
	return c
}

// dataWriter packs the bytes of one yamux session into records.
type dataWriter struct {
	epoch uint64
	// put writes one record; buf is its to keep until it returns.
	put func(rec []byte) error
	// held is a yamux header whose body comes with the next write, so that both
	// go into one record: each write to a port costs an exit from the guest.
	held []byte
	buf  []byte
}

// Write is called by yamux's one sending goroutine.
func (w *dataWriter) Write(p []byte) (int, error) {
	if w.held == nil && announcesBody(p) {
		w.held = append([]byte(nil), p...)
		return len(p), nil
	}
	first, rest := w.held, p
	w.held = nil
	for len(first)+len(rest) > 0 {
		n := min(len(rest), maxPayload-len(first))
		w.buf = appendRecord(w.buf[:0], kindData, w.epoch, first, rest[:n])
		if err := w.put(w.buf); err != nil {
			return 0, err
		}
		first, rest = nil, rest[n:]
	}
	return len(p), nil
}

// announcesBody recognises the header of a yamux data frame (version 0, type 0 = data,
// flags, stream, length > 0; yamux/spec.md): its body is always the next write.
func announcesBody(p []byte) bool {
	return len(p) == 12 && p[0] == 0 && p[1] == 0 && binary.BigEndian.Uint32(p[8:]) > 0
}

// stream is a yamux stream whose Close is a full close, as net.Conn wants it.
type stream struct {
	*yamux.Stream
	closed atomic.Bool
	rmu    sync.Mutex // held while reading from the Stream
	peers  *closings
	peer   *peer
	brief  bool
}

func newStream(st *yamux.Stream, c *closings) *stream {
	return &stream{Stream: st, peers: c, peer: c.of(st.StreamID())}
}

// PeerClosed is closed as soon as it is known that the peer has closed the stream, or the
// session has ended. What it sent before can still be read.
func (s *stream) PeerClosed() <-chan struct{} { return s.peer.gone }

// Brief reports, on the host, that the agent knows this version of package brief.
func (s *stream) Brief() bool { return s.brief }

// Thawed reports, once PeerClosed is closed or reading has failed, that the peer has not let go of
// the stream: this guest has been thawed, and the stream is that of the guest that it was.
func (s *stream) Thawed() bool { return s.peers.thawed.Load() && !s.peer.left.Load() }

func (s *stream) Read(p []byte) (int, error) {
	s.rmu.Lock()
	defer s.rmu.Unlock()
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	n, err := s.Stream.Read(p)
	switch {
	case err == nil:
	case s.closed.Load():
		err = net.ErrClosed
	case errors.Is(err, yamux.ErrTimeout):
		err = os.ErrDeadlineExceeded
	case errors.Is(err, yamux.ErrConnectionReset):
		err = syscall.ECONNRESET
	}
	return n, err
}

func (s *stream) Write(p []byte) (int, error) {
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	select {
	case <-s.peer.gone:
		return 0, syscall.EPIPE
	default:
	}
	n, err := s.Stream.Write(p)
	switch {
	case err == nil:
	case s.closed.Load():
		err = net.ErrClosed
	case errors.Is(err, yamux.ErrTimeout):
		err = os.ErrDeadlineExceeded
	case errors.Is(err, yamux.ErrConnectionReset), errors.Is(err, yamux.ErrStreamClosed):
		err = syscall.EPIPE
	}
	return n, err
}

// tellTime is how long Close waits until the FIN is on its way to the peer: who ends the session, or the epoch, after it is sure of that.
const tellTime = 100 * time.Millisecond

// Close ends both directions. What the peer still sends is thrown away, lest it
// stand waiting for room in our window and never read that we are gone. A peer that reads nothing, such as a guest that
// is paused, is told when it goes on: yamux waits for that, and Close does not.
func (s *stream) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	_ = s.Stream.SetDeadline(time.Unix(1, 0)) // wakes those who read and write now
	told := make(chan error, 1)
	go func() {
		told <- s.Stream.Close()
		s.rmu.Lock()
		defer s.rmu.Unlock()
		_ = s.Stream.SetReadDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, onlyReader{s.Stream})
		s.peers.forget(s.Stream.StreamID())
	}()
	late := time.NewTimer(tellTime)
	defer late.Stop()
	select {
	case err := <-told:
		return err
	case <-late.C:
		return nil
	}
}

// onlyReader hides all but Read, so that io.Copy reads with its own small buffer.
type onlyReader struct{ io.Reader }

func (s *stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

func (s *stream) SetReadDeadline(t time.Time) error {
	if s.closed.Load() {
		return net.ErrClosed
	}
	return s.Stream.SetReadDeadline(t)
}

func (s *stream) SetWriteDeadline(t time.Time) error {
	if s.closed.Load() {
		return net.ErrClosed
	}
	return s.Stream.SetWriteDeadline(t)
}
