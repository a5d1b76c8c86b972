package bzimage

import (
	"encoding/binary"
	"errors"
)

// lz4Magic begins LZ4's legacy frame (lz4_Frame_format.md), which kernels are packed in: after it blocks, each with
// its packed length before it, of at most 8 MiB unpacked. Each stands by itself.
const lz4Magic = 0x184C2102

var errLZ4 = errors.New("the LZ4 data is damaged")

// unpackLZ4 unpacks the blocks of a legacy frame into size bytes.
func unpackLZ4(in []byte, size int) ([]byte, error) {
	out := make([]byte, 0, size)
	for len(in) > 0 {
		if len(in) < 4 {
			return nil, errLZ4
		}
		n := binary.LittleEndian.Uint32(in)
		if in = in[4:]; n == lz4Magic { // frames may follow one another
			continue
		}
		if uint64(n) > uint64(len(in)) {
			return nil, errLZ4
		}
		var err error
		if out, err = unpackBlock(in[:n], out, size); err != nil {
			return nil, err
		}
		in = in[n:]
	}
	return out, nil
}

// unpackBlock appends what a block holds (lz4_Block_format.md). A match reaches back within the block only.
func unpackBlock(in, out []byte, size int) ([]byte, error) {
	begin := len(out)
	for len(in) > 0 {
		token := in[0]
		in = in[1:]
		literals, rest, err := length(int(token>>4), in)
		if err != nil || literals > len(rest) || literals > size-len(out) {
			return nil, errLZ4
		}
		out, in = append(out, rest[:literals]...), rest[literals:]
		if len(in) == 0 {
			return out, nil // the last sequence has literals only
		}
		if len(in) < 2 {
			return nil, errLZ4
		}
		back := int(binary.LittleEndian.Uint16(in))
		match, rest, err := length(int(token&15), in[2:])
		match += 4
		if err != nil || back == 0 || back > len(out)-begin || match > size-len(out) {
			return nil, errLZ4
		}
		in = rest
		for at := len(out) - back; match > 0; { // it may overlap what it makes
			n := min(match, len(out)-at)
			out = append(out, out[at:at+n]...)
			at, match = at+n, match-n
		}
	}
	return out, nil
}

// length reads the bytes that go on a length of 15.
func length(n int, in []byte) (int, []byte, error) {
	if n < 15 {
		return n, in, nil
	}
	for i, b := range in {
		n += int(b)
		if b != 255 {
			return n, in[i+1:], nil
		}
		if n > maxKernel {
			break
		}
	}
	return 0, nil, errLZ4
}
