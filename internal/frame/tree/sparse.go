package tree

import (
	"bytes"
	"io"

	"golang.org/x/sys/unix"
)

// blockSize is how much is read and written at once, and the size of the blocks that become holes.
const blockSize = 64 << 10

// copySparse fills an empty file through a buffer, leaving holes where whole blocks are zero.
func copySparse(fd int, r io.Reader, buf []byte) error {
	var size int64
	hole := false
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if hole = n == len(buf) && zero(buf); !hole {
				if err := writeAt(fd, buf[:n], size); err != nil {
					return err
				}
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
				return unix.Ftruncate(fd, size)
			}
			return nil
		default:
			return err
		}
	}
}

func zero(buf []byte) bool { return buf[0] == 0 && bytes.Equal(buf[1:], buf[:len(buf)-1]) }

func writeAt(fd int, buf []byte, at int64) error {
	for len(buf) > 0 {
		n, err := unix.Pwrite(fd, buf, at)
		if err != nil && err != unix.EINTR { //nolint:errorlint // never wrapped
			return err
		}
		if n > 0 {
			buf, at = buf[n:], at+int64(n)
		}
	}
	return nil
}

// endOf tells the end of a member from the end of a stream that was cut off within it.
func endOf(r io.Reader) error {
	var one [1]byte
	if _, err := r.Read(one[:]); err != io.EOF {
		return err
	}
	return nil
}
