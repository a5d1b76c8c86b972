package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// virtioVsock is the type of a vsock on the virtio bus (the VIRTIO specification, section 5).
const virtioVsock = 19

// vsockListener takes connections of the guest's vsock.
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

// Accept takes the host's connections, and nobody else's: a process of this guest could reach the port where the kernel has a loopback.
func (l *vsockListener) Accept() (net.Conn, error) {
	raw, err := l.f.SyscallConn()
	if err != nil {
		return nil, err
	}
	for {
		var fd int
		var from unix.Sockaddr
		var aerr error
		err := raw.Read(func(s uintptr) bool {
			fd, from, aerr = unix.Accept4(int(s), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
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
			if a, ok := from.(*unix.SockaddrVM); ok && a.CID == unix.VMADDR_CID_HOST {
				return vsockConn{os.NewFile(uintptr(fd), "vsock")}, nil
			}
			_ = unix.Close(fd)
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

// vsockConn is one connection. Go's net knows no such sockets, so it is a file that can be polled.
type vsockConn struct{ *os.File }

func (c vsockConn) Read(p []byte) (int, error) {
	n, err := c.File.Read(p)
	return n, plainly(err)
}

func (c vsockConn) Write(p []byte) (int, error) {
	n, err := c.File.Write(p)
	return n, plainly(err)
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

func (vsockConn) LocalAddr() net.Addr  { return vsockAddr{} }
func (vsockConn) RemoteAddr() net.Addr { return vsockAddr{} }
