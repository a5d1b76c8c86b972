// Package sieve stands between a guest's network device and passt, and takes out the frames that
// would reach the host itself. It owns that one process per VM; network starts it, bangerd's
// hidden subcommand runs it.
//
// passt makes a connection of the host's for each that its guest begins. Its --no-map-gw stops the
// gateway's address from meaning the host's loopback, but the version in Debian 12 (2023-03-09) connects to
// 127.0.0.1 and 0.0.0.0 when a frame says so (measured), and to listeners on the host's other
// addresses. Root in a guest can send any frame.
package sieve

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
)

// Name is the argument that makes bangerd this program.
const Name = "net-filter"

// Descriptors that the process is started with.
const (
	listenFD = 3 // a listening unix stream socket for the VMM
	passtFD  = 4 // the connection to passt
)

// Main runs until either side goes away. args are those after Name:
//
//	--socket PATH  what the VMM connects to; here only so that the process can be found by it
//	--guest ADDR   the guest's address
func Main(args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet(Name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.String("socket", "", "path of the listening socket")
	guest := flags.String("guest", "", "address of the guest")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	ip, err := netip.ParseAddr(*guest)
	if err == nil {
		err = serve(ip)
	}
	if err != nil {
		fmt.Fprintln(stderr, "banger network filter:", err)
		return 1
	}
	return 0
}

func serve(guest netip.Addr) error {
	l, err := net.FileListener(os.NewFile(listenFD, "listen"))
	if err != nil {
		return err
	}
	passt, err := net.FileConn(os.NewFile(passtFD, "passt"))
	if err != nil {
		return err
	}
	defer passt.Close()
	vmm, err := acceptOne(l, passt)
	if err != nil {
		return err
	}
	defer vmm.Close()
	return Run(vmm, passt, guest, hostAddresses)
}

// acceptOne waits for the VMM. passt says nothing before it is spoken to: what ends the read is its end.
func acceptOne(l net.Listener, passt net.Conn) (net.Conn, error) {
	defer l.Close()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var b [1]byte
		if _, err := passt.Read(b[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
			_ = l.Close()
		}
	}()
	vmm, err := l.Accept()
	if err != nil {
		return nil, fmt.Errorf("passt ended before the VMM came: %w", err)
	}
	if err := passt.SetReadDeadline(time.Now()); err != nil {
		return nil, err
	}
	<-gone
	return vmm, passt.SetReadDeadline(time.Time{})
}

// Run copies frames both ways until one side ends; what the guest sends goes through the policy. A frame is
// preceded by its length, 32 bits big-endian, as QEMU's stream netdev and passt have it.
func Run(vmm, passt net.Conn, guest netip.Addr, addresses func() map[netip.Addr]bool) error {
	ended := make(chan error, 2)
	go func() {
		_, err := io.Copy(vmm, passt)
		ended <- err
	}()
	go func() { ended <- sift(passt, vmm, guest, addresses) }()
	err := <-ended
	_, _ = vmm.Close(), passt.Close()
	<-ended
	return err
}

const (
	maxFrame = 65535 + etherHeader
	// fresh is how long the host's addresses are believed.
	fresh = time.Second
)

// sift copies the frames that the policy allows. It reads as much as there is and writes
// it on at once, frames that are not allowed closed up.
func sift(to io.Writer, from io.Reader, guest netip.Addr, addresses func() map[netip.Addr]bool) error {
	buf := make([]byte, 4*(4+maxFrame))
	policy := Policy{Guest: guest}
	var asked time.Time
	have := 0
	for {
		n, err := from.Read(buf[have:])
		if n == 0 && err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		have += n
		if now := time.Now(); now.Sub(asked) > fresh {
			policy.Host, asked = addresses(), now
		}
		used, out, err := squeeze(buf[:have], policy)
		if err != nil {
			return err
		}
		if _, err := to.Write(buf[:out]); err != nil {
			return err
		}
		have = copy(buf, buf[used:have])
	}
}

// squeeze moves the allowed whole frames to the front of buf: used bytes are dealt
// with, the first out bytes are to be written.
func squeeze(buf []byte, p Policy) (used, out int, err error) {
	for len(buf)-used >= 4 {
		size := binary.BigEndian.Uint32(buf[used:])
		if size > maxFrame {
			return 0, 0, fmt.Errorf("a frame of %d bytes", size)
		}
		end := used + 4 + int(size)
		if end > len(buf) {
			break
		}
		if p.Allows(buf[used+4 : end]) {
			out += copy(buf[out:], buf[used:end])
		}
		used = end
	}
	return used, out, nil
}

// hostAddresses are the host's IPv4 addresses.
func hostAddresses() map[netip.Addr]bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	out := make(map[netip.Addr]bool, len(all))
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP.To4()); ok {
				out[ip] = true
			}
		}
	}
	return out
}
