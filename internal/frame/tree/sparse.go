package tree

import (
	"bytes"
	"io"
	"os"
)

const sparseBlock = 64 << 10

// copySparse fills an empty file, leaving holes where whole blocks are zero.
func copySparse(f *os.File, r io.Reader) error {
	buf := make([]byte, sparseBlock)
	zero := make([]byte, sparseBlock)
	var size int64
	hole := false
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if n == sparseBlock && bytes.Equal(buf, zero) {
				hole = true
			} else {
				if _, err := f.WriteAt(buf[:n], size); err != nil {
					return err
				}
				hole = false
			}
			size += int64(n)
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			if err := endOf(r); err != nil { // a stream that was cut off says so at its next read
				return err
			}
			if hole {
				return f.Truncate(size)
			}
			return nil
		default:
			return err
		}
	}
}

// endOf tells the end of a member from the end of a stream that was cut off within it.
func endOf(r io.Reader) error {
	var one [1]byte
	if _, err := r.Read(one[:]); err != io.EOF {
		return err
	}
	return nil
}
