package fake

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"banger/internal/host"
)

// playPasst answers every frame on descriptor 3 with one, as the real one answers the ARP
// request that asks whether it is up, until that connection is closed.
func playPasst(_ context.Context, c host.Command) error {
	if len(c.Files) == 0 {
		return fmt.Errorf("passt was given no connection")
	}
	fd, err := syscall.Dup(int(c.Files[0].Fd()))
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "passt")
	conn, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return err
	}
	go func() {
		defer conn.Close()
		buf := make([]byte, 64)
		for {
			if _, err := io.ReadAtLeast(conn, buf, 4+42); err != nil {
				return
			}
			if _, err := conn.Write(append([]byte{0, 0, 0, 42}, make([]byte, 42)...)); err != nil {
				return
			}
		}
	}()
	return nil
}
