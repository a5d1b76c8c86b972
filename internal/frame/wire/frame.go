package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	frameHeader = 12
	// maxFrame is the most that one frame carries.
	maxFrame = 32 << 10
	bye      = 1<<32 - 1
	idSize   = 16
)

var magic = [4]byte{0xB5, 'b', 'g', 'w'}

// What is said at the beginning of a connection.
const (
	sayNew   = 1
	sayAgain = 2
	sayYes   = 3
	sayNo    = 4
)

// handshakeTime bounds a handshake.
const handshakeTime = 30 * time.Second

// byeTime bounds the last word on a connection that the other end does not read from.
const byeTime = time.Second

type id [idSize]byte

// hello begins a connection. A wire that the guest knows goes on, whatever it says.
type hello struct {
	say  byte
	id   id
	read uint64
}

const (
	helloSize  = len(magic) + 1 + idSize + 8
	answerSize = len(magic) + 1 + 8
)

func (h hello) append(b []byte) []byte {
	b = append(append(b, magic[:]...), h.say)
	return binary.BigEndian.AppendUint64(append(b, h.id[:]...), h.read)
}

func readHello(r io.Reader) (h hello, err error) {
	var b [helloSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return h, err
	}
	h.say = b[len(magic)]
	copy(h.id[:], b[len(magic)+1:])
	h.read = binary.BigEndian.Uint64(b[helloSize-8:])
	if [4]byte(b[:4]) != magic || h.say != sayNew && h.say != sayAgain {
		return h, errForeign
	}
	return h, nil
}

func appendAnswer(b []byte, say byte, read uint64) []byte {
	return binary.BigEndian.AppendUint64(append(append(b, magic[:]...), say), read)
}

func readAnswer(r io.Reader) (say byte, read uint64, err error) {
	var b [answerSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, 0, err
	}
	say = b[len(magic)]
	if [4]byte(b[:4]) != magic || say != sayYes && say != sayNo {
		return 0, 0, errForeign
	}
	return say, binary.BigEndian.Uint64(b[answerSize-8:]), nil
}

var (
	errForeign = errors.New("whoever is at the other end speaks another language")
	errBye     = errors.New("the other end has said bye")
)

// transport is one connection of a wire.
type transport struct {
	net.Conn
	in *bufio.Reader
	// answer: the guest's answer is still to come.
	answer bool
	// left is what is to come of the present frame.
	left uint32
	// last: the one who writes says bye.
	last bool
}

func newTransport(c net.Conn) *transport {
	return &transport{Conn: c, in: bufio.NewReaderSize(c, 16<<10)}
}

// read reads some bytes into p, or a frame's header: then told is set, and there may be no bytes yet.
func (t *transport) read(p []byte) (n int, told bool, peer uint64, err error) {
	if t.answer {
		if say, _, err := readAnswer(t.in); err != nil {
			return 0, false, 0, err
		} else if say == sayNo {
			return 0, false, 0, errForeign // a new one is never refused
		}
		t.answer = false
	}
	if t.left == 0 {
		var h [frameHeader]byte
		if _, err := io.ReadFull(t.in, h[:]); err != nil {
			return 0, false, 0, err
		}
		length := binary.BigEndian.Uint32(h[:])
		switch {
		case length == bye:
			return 0, false, 0, errBye
		case length > maxFrame:
			return 0, false, 0, fmt.Errorf("%w: a frame of %d bytes", errBroken, length)
		}
		t.left, told, peer = length, true, binary.BigEndian.Uint64(h[4:])
		if t.left == 0 || t.in.Buffered() == 0 {
			return 0, told, peer, nil
		}
	}
	n, err = t.in.Read(p[:min(len(p), int(t.left))])
	t.left -= uint32(n)
	if n > 0 {
		err = nil // it comes again
	}
	return n, told, peer, err
}

// sayBye ends the connection.
func (t *transport) sayBye() {
	_, _ = t.Write(appendHeader(nil, bye, 0))
	_ = t.Close()
}

func appendHeader(b []byte, length uint32, read uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, length), read)
}
