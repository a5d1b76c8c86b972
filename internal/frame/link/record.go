package link

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// The record header: magic(4) kind(1) zero(1) length(2) epoch(8) crc(4), big-endian.
// The checksum covers everything but itself and the magic.
const (
	maxPayload = 16 << 10
	headerSize = 20
)

// magic begins with a byte that text rarely has and the preamble never has.
var magic = [4]byte{0xB5, 'b', 'g', 'r'}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type kind byte

const (
	kindHello kind = 1 + iota
	kindAck
	kindData
	kindBye
	kindAnswer
)

// Flags of a HELLO, a byte behind its nonce that may be left out.
const (
	helloThawed = 1 // the guest has been thawed since the epoch before
	helloSpeech = 2 // a byte follows: the speech of the host
	helloFirst  = 4 // after that byte comes what the guest finds on its first stream
)

// Speech is the version of package brief, which the streams of a session may use where both ends know the same: a guest that does
// says it back behind the nonce of its ACK.
const Speech = 3

// MaxFirst is the most that a host can say with its greeting, and the guest in answer to that, in bytes.
const MaxFirst = maxPayload - nonceSize - 2

// preambleSize is enough filler to complete any half record, whatever length it claims.
const preambleSize = maxPayload

func preamble() []byte { return bytes.Repeat([]byte{0xFF}, preambleSize) }

// record is one unit on the wire. payload is valid until the next call of next.
type record struct {
	kind    kind
	epoch   uint64
	payload []byte
}

// appendRecord appends the record to dst; the payload is at most maxPayload bytes,
// in as many pieces as the caller has.
func appendRecord(dst []byte, k kind, epoch uint64, pieces ...[]byte) []byte {
	start := len(dst)
	n := 0
	for _, p := range pieces {
		n += len(p)
	}
	dst = append(dst, magic[:]...)
	dst = append(dst, byte(k), 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	dst = binary.BigEndian.AppendUint64(dst, epoch)
	dst = append(dst, 0, 0, 0, 0)
	for _, p := range pieces {
		dst = append(dst, p...)
	}
	binary.BigEndian.PutUint32(dst[start+16:], checksum(dst[start:]))
	return dst
}

func checksum(rec []byte) uint32 {
	c := crc32.Update(0, castagnoli, rec[4:16])
	return crc32.Update(c, castagnoli, rec[headerSize:])
}

// recordReader finds records in a stream of bytes that may hold anything.
type recordReader struct {
	r          io.Reader
	buf        []byte
	start, end int
}

func newRecordReader(r io.Reader, pending []byte) *recordReader {
	rr := &recordReader{r: r, buf: make([]byte, max(64<<10, len(pending)))}
	rr.end = copy(rr.buf, pending)
	return rr
}

// next returns the next record that checks; what does not is skipped.
func (rr *recordReader) next() (record, error) {
	for {
		rr.seek()
		if err := rr.need(headerSize); err != nil {
			return record{}, err
		}
		h := rr.buf[rr.start:]
		n := int(binary.BigEndian.Uint16(h[6:]))
		k := kind(h[4])
		if !bytes.Equal(h[:4], magic[:]) || k < kindHello || k > kindAnswer || h[5] != 0 || n > maxPayload {
			rr.start++
			continue
		}
		if err := rr.need(headerSize + n); err != nil {
			return record{}, err
		}
		h = rr.buf[rr.start : rr.start+headerSize+n]
		if binary.BigEndian.Uint32(h[16:]) != checksum(h) {
			rr.start++ // a true record may begin inside this one
			continue
		}
		rr.start += len(h)
		return record{kind: k, epoch: binary.BigEndian.Uint64(h[8:]), payload: h[headerSize:]}, nil
	}
}

// seek moves on to the first byte that may begin a record.
func (rr *recordReader) seek() {
	if i := bytes.IndexByte(rr.buf[rr.start:rr.end], magic[0]); i >= 0 {
		rr.start += i
	} else {
		rr.start, rr.end = 0, 0
	}
}

// need reads until n bytes are there from start on.
func (rr *recordReader) need(n int) error {
	for rr.end-rr.start < n {
		if rr.start == rr.end {
			rr.start, rr.end = 0, 0
		}
		if rr.start+n > len(rr.buf) || rr.end == len(rr.buf) {
			rr.end = copy(rr.buf, rr.buf[rr.start:rr.end])
			rr.start = 0
		}
		m, err := rr.r.Read(rr.buf[rr.end:])
		rr.end += m
		if err != nil && m == 0 {
			return err
		}
	}
	return nil
}
