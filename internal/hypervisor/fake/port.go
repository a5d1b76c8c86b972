package fake

import (
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// port is the serial port between host and guest, with QEMU's habits: one host at a
// time, what the guest writes with no host connected is lost, and a guest's reboot leaves
// the host connected.
type port struct {
	mu      sync.Mutex // protects the following
	changed *sync.Cond
	host    net.Conn
	guest   net.Conn
	held    bool
}

func newPort() *port {
	p := &port{}
	p.changed = sync.NewCond(&p.mu)
	return p
}

// renew gives the guest a fresh end.
func (p *port) renew() (*os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a port: %w", err)
	}
	inside, outside := os.NewFile(uintptr(fds[0]), "port"), os.NewFile(uintptr(fds[1]), "port")
	defer outside.Close()
	conn, err := net.FileConn(outside)
	if err != nil {
		_ = inside.Close()
		return nil, err
	}
	p.mu.Lock()
	old := p.guest
	p.guest = conn
	p.changed.Broadcast()
	p.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
	go p.fromGuest(conn)
	return inside, nil
}

// hold keeps everything from getting through while v is true.
func (p *port) hold(v bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = v
	p.changed.Broadcast()
}

func (p *port) fromGuest(guest net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := guest.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		for p.held {
			p.changed.Wait()
		}
		host := p.host
		p.mu.Unlock()
		if host != nil {
			_, _ = host.Write(buf[:n])
		}
	}
}

// serve hands the port to one host after the other.
func (p *port) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.host = conn
		p.mu.Unlock()
		p.fromHost(conn)
		p.mu.Lock()
		p.host = nil
		p.mu.Unlock()
		_ = conn.Close()
	}
}

func (p *port) fromHost(conn net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		for p.guest == nil || p.held {
			p.changed.Wait()
		}
		guest := p.guest
		p.mu.Unlock()
		_, _ = guest.Write(buf[:n])
	}
}
