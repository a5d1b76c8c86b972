package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/frame/link"
)

// virtioVsock is the type of a vsock on the virtio bus (the VIRTIO specification, section 5).
const virtioVsock = 19

// vsockListener serves streams that are connections of the guest's vsock.
type vsockListener struct{ f *os.File }

// listenVsock listens for the host on a port.
func listenVsock(port uint32) (*vsockListener, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the vsock: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port})
	if err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot listen on port %d of the vsock: %w", port, err)
	}
	return &vsockListener{os.NewFile(uintptr(fd), "vsock")}, nil
}

// Accept tells the host which speech this is, on each stream: there may have been another agent before.
func (l *vsockListener) Accept() (net.Conn, error) {
	raw, err := l.f.SyscallConn()
	if err != nil {
		return nil, err
	}
	for {
		fd, aerr := -1, error(nil)
		err := raw.Read(func(s uintptr) bool {
			fd, _, aerr = unix.Accept4(int(s), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return !errors.Is(aerr, unix.EAGAIN)
		})
		if errors.Is(err, os.ErrClosed) {
			return nil, net.ErrClosed
		}
		if err == nil {
			err = aerr
		}
		switch {
		case err == nil:
			c := newVsockConn(fd)
			if _, err := c.Write([]byte{link.Speech}); err == nil {
				return c, nil
			}
			_ = c.Close() // it has gone already
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNRESET):
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			time.Sleep(10 * time.Millisecond) // that passes, and tells nobody when
		default:
			return nil, fmt.Errorf("cannot accept on the vsock: %w", err)
		}
	}
}

func (l *vsockListener) Close() error   { return l.f.Close() }
func (l *vsockListener) Addr() net.Addr { return vsockAddr{} }

type vsockAddr struct{}

func (vsockAddr) Network() string { return "vsock" }
func (vsockAddr) String() string  { return "banger.agent" }

// vsockConn is one stream. Go's net knows no such sockets, so it is a file that can be polled.
type vsockConn struct {
	*os.File
	gone   chan struct{}
	thawed atomic.Bool
	asked  sync.Once
	closed atomic.Bool
}

func newVsockConn(fd int) *vsockConn {
	c := &vsockConn{File: os.NewFile(uintptr(fd), "vsock"), gone: make(chan struct{})}
	go c.watch()
	return c
}

// watch learns by a descriptor of its own when the host hangs up, also while nobody reads.
func (c *vsockConn) watch() {
	defer close(c.gone)
	var own *os.File
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if d, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			own = os.NewFile(uintptr(d), "vsock")
		}
	})
	if own == nil {
		return
	}
	defer own.Close()
	watched, err := own.SyscallConn()
	if err != nil {
		return
	}
	_ = watched.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		return n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0 || err != nil && !errors.Is(err, unix.EINTR)
	})
	c.ask()
}

// ask finds out whether it was the host's end that went. A vsock that is reset as a whole, as it is by a snapshot, gives each of its sockets
// this error, and nothing else does (virtio_vsock_reset_sock in the kernel's net/vmw_vsock/virtio_transport.c).
func (c *vsockConn) ask() {
	c.asked.Do(func() {
		raw, err := c.SyscallConn()
		if err != nil {
			return
		}
		_ = raw.Control(func(fd uintptr) {
			v, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
			c.thawed.Store(err == nil && unix.Errno(v) == unix.ECONNRESET)
		})
	})
}

// PeerClosed is closed when the host has closed the stream. What it sent before can still be read.
func (c *vsockConn) PeerClosed() <-chan struct{} { return c.gone }

// Thawed reports, once PeerClosed is closed or reading has failed, that nobody has let go of the stream: it was lost to a snapshot.
func (c *vsockConn) Thawed() bool {
	if !c.closed.Load() {
		c.ask()
	}
	return c.thawed.Load()
}

func (c *vsockConn) Read(p []byte) (int, error) {
	n, err := c.File.Read(p)
	return n, plainly(err)
}

func (c *vsockConn) Write(p []byte) (int, error) {
	n, err := c.File.Write(p)
	return n, plainly(err)
}

// Close ends both directions at once, for those too who watch: a descriptor of theirs would keep the socket open.
func (c *vsockConn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	}
	return c.File.Close()
}

// plainly gives the errors that net's connections would have.
func plainly(err error) error {
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return err
	case errors.Is(err, os.ErrClosed):
		return net.ErrClosed
	case errors.Is(err, unix.ENOTCONN):
		return unix.ECONNRESET
	}
	return err
}

func (c *vsockConn) LocalAddr() net.Addr  { return vsockAddr{} }
func (c *vsockConn) RemoteAddr() net.Addr { return vsockAddr{} }
