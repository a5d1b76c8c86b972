package frame

import (
	"errors"
	"io"
	"net"
	"sync"
)

// Duplex carries a stream of bytes with half-close over a connection that has none
// of its own: Stdin frames in both directions, an empty one for the end of a direction.
// It is what the agent's /dial speaks. The connection's end without an empty frame
// before it is an abort: Read then returns io.ErrUnexpectedEOF.
type Duplex struct {
	net.Conn
	r    *Reader
	w    *Writer
	left []byte
	done error // what Read returns from now on
	once sync.Once
}

// NewDuplex wraps conn. r holds what has been read from conn ahead, or is conn.
// As with Reader, one goroutine may read.
func NewDuplex(conn net.Conn, r io.Reader) *Duplex {
	return &Duplex{Conn: conn, r: NewReader(r), w: NewWriter(conn)}
}

func (d *Duplex) Read(p []byte) (int, error) {
	for len(d.left) == 0 {
		if d.done != nil {
			return 0, d.done
		}
		f, err := d.r.Read()
		switch {
		case errors.Is(err, io.EOF):
			d.done = io.ErrUnexpectedEOF
		case err != nil:
			return 0, err // a deadline may be extended
		case len(f.Payload) == 0:
			d.done = io.EOF
		default:
			d.left = f.Payload
		}
	}
	n := copy(p, d.left)
	d.left = d.left[n:]
	return n, nil
}

func (d *Duplex) Write(p []byte) (int, error) { return d.w.Channel(Stdin).Write(p) }

// CloseWrite ends this side's direction; reading goes on.
func (d *Duplex) CloseWrite() error {
	var err error
	d.once.Do(func() { err = d.w.Write(Stdin, nil) })
	return err
}
