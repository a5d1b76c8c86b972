// Package frame is the one framing of every stream between command line, daemon
// and agent: a byte of channel, a length of 32 bits (big-endian), the payload. It
// imports only api; anyone may import it.
//
// An exec stream begins, after the HTTP upgrade, with the client's control frame
// "start" and ends with the server's "exit" or "error". In between the client sends
// Stdin frames and the controls "resize", "signal" and "eof" (end of stdin); the
// server sends Stdout and Stderr frames. All output that the command itself wrote
// comes before "exit". A stream that ends without "exit" or "error" was cut off; when
// the client's side ends, the command is cancelled.
//
// A session's attach is the same but for two things: "start" says only how large the client's terminal is,
// and when the client's side ends it is detached, and the session goes on. Of a terminal, Stderr frames carry what
// is shown that the command has not written itself: they count in no offset. A session's send is
// "start", Stdin frames, "eof" if stdin is to end for ever, and one empty Stdin frame; "exit" (of
// code 0) then says that the command has been given all of it.
package frame

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"banger/api"
)

// Channel says what a frame carries.
type Channel byte

// The channels.
const (
	Stdin   Channel = 1 // client to server
	Stdout  Channel = 2 // server to client
	Stderr  Channel = 3 // server to client
	Control Channel = 4 // JSON of api.Control, both ways
)

// The channels of package brief, between daemon and agent only.
const (
	Start    Channel = 5 // daemon, first: a command; the rest is as after "start"
	Exit     Channel = 6 // agent, last
	Identity Channel = 7 // daemon, first
	State    Channel = 8 // agent, in answer to Identity
)

// MaxPayload is the most that one frame may carry, in bytes; more is an error.
const MaxPayload = 64 << 10

const headerSize = 5

// Frame is one frame. Payload is valid until the next Read of its Reader.
type Frame struct {
	Channel Channel
	Payload []byte
}

// Control decodes the payload of a control frame. The error has code invalid.
func (f Frame) Control() (api.Control, error) {
	var c api.Control
	if f.Channel != Control {
		return c, api.Errorf(api.CodeInvalid, "a control frame was expected, not one of channel %d", f.Channel)
	}
	if err := json.Unmarshal(f.Payload, &c); err != nil {
		return c, api.Errorf(api.CodeInvalid, "cannot read a control frame: %w", err)
	}
	return c, nil
}

// Reader reads frames. It is for one goroutine.
type Reader struct {
	r   *bufio.Reader
	buf []byte
}

// NewReader returns a Reader of r. It may read ahead; where bytes of r were read
// ahead already (a hijacked connection), hand it the *bufio.Reader that holds them.
func NewReader(r io.Reader) *Reader {
	br, ok := r.(*bufio.Reader)
	if !ok {
		br = bufio.NewReaderSize(r, 32<<10)
	}
	return &Reader{r: br}
}

// Read returns the next frame. The error is io.EOF where the stream ends between two
// frames, io.ErrUnexpectedEOF within one, and has code invalid for a frame
// that is too long or of an unknown channel.
func (r *Reader) Read() (Frame, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return Frame{}, err
	}
	ch, n := Channel(h[0]), binary.BigEndian.Uint32(h[1:])
	if ch < Stdin || ch > State {
		return Frame{}, api.Errorf(api.CodeInvalid, "a frame has the unknown channel %d", ch)
	}
	if n > MaxPayload {
		return Frame{}, api.Errorf(api.CodeInvalid, "a frame of %d bytes is over the limit of %d", n, MaxPayload)
	}
	if cap(r.buf) < int(n) {
		r.buf = make([]byte, n, max(int(n), 4<<10))
	}
	r.buf = r.buf[:n]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	return Frame{Channel: ch, Payload: r.buf}, nil
}

// Writer writes frames, each with one Write of what lies below. Any number of
// goroutines may use it.
type Writer struct {
	w io.Writer
	// mu keeps frames whole and protects buf.
	mu  sync.Mutex
	buf []byte
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write sends p on a channel, in as many frames as it takes. An empty p is one
// empty frame.
func (w *Writer) Write(ch Channel, p []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		n := min(len(p), MaxPayload)
		w.buf = append(w.buf[:0], byte(ch))
		w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(n))
		w.buf = append(w.buf, p[:n]...)
		if _, err := w.w.Write(w.buf); err != nil {
			return err
		}
		if p = p[n:]; len(p) == 0 {
			return nil
		}
	}
}

// Control sends a control message. It must fit into one frame.
func (w *Writer) Control(c api.Control) error {
	b, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("cannot write a control frame: %w", err)
	}
	if len(b) > MaxPayload {
		return api.Errorf(api.CodeInvalid, "a %s of %d bytes is over the limit of %d", c.Type, len(b), MaxPayload)
	}
	return w.Write(Control, b)
}

// Channel returns an io.Writer to one channel. Writing nothing sends nothing.
func (w *Writer) Channel(ch Channel) io.Writer { return channelWriter{w, ch} }

type channelWriter struct {
	w  *Writer
	ch Channel
}

func (c channelWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.w.Write(c.ch, p); err != nil {
		return 0, err
	}
	return len(p), nil
}
