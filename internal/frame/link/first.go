package link

import (
	"bytes"
	"io"
	"net"
	"time"
)

// firstStream is a guest's end of what its host said with the greeting: it reads that, and Close sends all that was written.
type firstStream struct {
	conn *guestConn
	in   bytes.Reader
	out  []byte
	done bool
}

func (f *firstStream) Read(p []byte) (int, error) { return f.in.Read(p) }

func (f *firstStream) Write(p []byte) (int, error) {
	if f.done {
		return 0, net.ErrClosed
	}
	if len(f.out)+len(p) > MaxFirst {
		return 0, io.ErrShortWrite
	}
	f.out = append(f.out, p...)
	return len(p), nil
}

// Close sends the answer. Closing twice sends it once.
func (f *firstStream) Close() error {
	if f.done {
		return nil
	}
	f.done = true
	return f.conn.put(appendRecord(nil, kindAnswer, f.conn.epoch, f.out))
}

func (f *firstStream) LocalAddr() net.Addr              { return addr{} }
func (f *firstStream) RemoteAddr() net.Addr             { return addr{} }
func (f *firstStream) SetDeadline(time.Time) error      { return nil }
func (f *firstStream) SetReadDeadline(time.Time) error  { return nil }
func (f *firstStream) SetWriteDeadline(time.Time) error { return nil }
