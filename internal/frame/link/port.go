package link

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// port is a virtio-serial port as Listen wants it.
type port struct {
	f   *os.File
	raw syscall.RawConn
}

// OpenPort opens the guest's end of a virtio-serial port, /dev/vportNpM. While no
// host is connected the kernel answers read with end-of-file at once
// (drivers/char/virtio_console.c, port_fops_read); this port's Read then sleeps
// until the kernel reports a change, by the runtime's edge-triggered epoll.
func OpenPort(path string) (io.ReadWriteCloser, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the port to the host: %w", err)
	}
	return newPort(f)
}

func newPort(f *os.File) (*port, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot open the port to the host: %w", err)
	}
	return &port{f: f, raw: raw}, nil
}

func (p *port) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	var n int
	var err error
	waitErr := p.raw.Read(func(fd uintptr) bool {
		for {
			n, err = syscall.Read(int(fd), b)
			if err != syscall.EINTR {
				break
			}
		}
		return n > 0 || (err != nil && err != syscall.EAGAIN)
	})
	if waitErr != nil {
		return 0, waitErr
	}
	return max(n, 0), err
}

func (p *port) Write(b []byte) (int, error) { return p.f.Write(b) }
func (p *port) Close() error                { return p.f.Close() }
