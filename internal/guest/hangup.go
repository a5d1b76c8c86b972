package guest

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// hangUp returns a function that tells, without reading, whether the other end of a
// socket has been closed; nil where conn is no socket.
func hangUp(conn any) func() bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	return func() bool {
		gone := false
		err := raw.Control(func(fd uintptr) {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
			n, err := unix.Poll(fds, 0)
			gone = err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLRDHUP|unix.POLLERR) != 0
		})
		return gone || err != nil
	}
}
