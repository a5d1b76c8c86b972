package serve

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// pumpSize is read at once: half of what a pipe holds.
const pumpSize = 32 << 10

// maxAfterExit bounds what is read of a pipe after its command has ended: no pipe holds
// more, and a child that goes on writing must not keep the call open.
const maxAfterExit = 1 << 20

// pump hands what comes out of r to write until r ends, or the command has exited and all that was
// in r at that time is read. From then on a child that still holds the other end
// may write in vain: it is read, and thrown away, until nobody has it any more.
// An error of write only stops the writing: a command must not be blocked by it. The channel
// that is returned is closed when that last reading has ended too.
func pump(r *os.File, exited <-chan struct{}, write func([]byte) error) (drained <-chan struct{}) {
	done := make(chan struct{})
	read := make(chan struct{})
	go func() {
		select {
		case <-exited:
			_ = r.SetReadDeadline(time.Unix(1, 0)) // wakes the Read below
		case <-read:
		}
	}()
	buf := make([]byte, pumpSize)
	put := func(n int) {
		if n > 0 && write != nil && write(buf[:n]) != nil {
			write = nil
		}
	}
	for {
		n, err := r.Read(buf)
		put(n)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil { // end-of-file; EIO of a terminal that nobody has open
			close(read)
			<-exited // closing a terminal kills those who have it
			_ = r.Close()
			close(done)
			return done
		}
	}
	close(read)
	_ = r.SetReadDeadline(time.Time{})
	for left := maxAfterExit; left > 0; {
		n := readNow(r, buf)
		if n <= 0 {
			break
		}
		put(n)
		left -= n
	}
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, onlyReader{r})
		_ = r.Close()
	}()
	return done
}

// onlyReader hides WriteTo, which would splice into a pipe of its own.
type onlyReader struct{ io.Reader }

// readNow reads what is there without waiting, and returns 0 where there is nothing.
func readNow(r *os.File, buf []byte) (n int) {
	raw, err := r.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Read(func(fd uintptr) bool {
		for {
			n, err = syscall.Read(int(fd), buf)
			if !errors.Is(err, syscall.EINTR) {
				return true
			}
		}
	})
	return n
}
