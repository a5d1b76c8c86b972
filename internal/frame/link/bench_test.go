package link

import (
	"context"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
)

// BenchmarkOneStream moves bytes from guest to host over a socket pair: what link itself costs.
func BenchmarkOneStream(b *testing.B) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	host, guest := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "guest")
	l := Listen(guest)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func(c net.Conn) { _, _ = io.Copy(c, zeros{}) }(c)
		}
	}()
	s, err := Dial(context.Background(), host, 1)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	c, err := s.Open(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}
