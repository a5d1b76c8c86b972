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
	"syscall"
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
//	--resolver ADDR and --resolv-conf PATH   where it asks for names, and whom that is in truth
func Main(args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet(Name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.String("socket", "", "path of the listening socket")
	guest := flags.String("guest", "", "address of the guest")
	resolver := flags.String("resolver", "", "address that stands for the host's resolver")
	resolvConf := flags.String("resolv-conf", "/etc/resolv.conf", "where the host's resolvers are listed")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	p := &Policy{Look: func() Host { return look(*resolvConf) }}
	var err, err2 error
	p.Guest, err = netip.ParseAddr(*guest)
	p.Resolver, err2 = netip.ParseAddr(*resolver)
	if err = errors.Join(err, err2); err == nil {
		err = serve(p)
	}
	if err != nil {
		fmt.Fprintln(stderr, "banger network filter:", err)
		return 1
	}
	return 0
}

func serve(p *Policy) error {
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
	return Run(vmm, passt, p)
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

// Run copies frames both ways, through the policy, until one side ends. A frame is preceded by its
// length, 32 bits big-endian, as QEMU's stream netdev and passt have it.
func Run(vmm, passt net.Conn, p *Policy) error {
	ended := make(chan error, 2)
	go func() { ended <- sift(vmm, passt, p.In) }()
	go func() { ended <- sift(passt, vmm, p.Out) }()
	err := <-ended
	_, _ = vmm.Close(), passt.Close()
	<-ended //nolint:errcheck // it fails because of that Close
	return err
}

const maxFrame = 65535 + etherHeader

// sift copies the frames that keep allows. It reads as much as there is and writes it on at
// once, closed up where frames were left out.
func sift(to io.Writer, from io.Reader, keep func([]byte) bool) error {
	buf := make([]byte, 4*(4+maxFrame))
	have := 0
	for {
		n, err := from.Read(buf[have:])
		if n == 0 && err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) {
				return nil
			}
			return err
		}
		have += n
		used, out, err := squeeze(buf[:have], keep)
		if err != nil {
			return err
		}
		// What lies between out and used is left out; what follows used is the start of a frame.
		if _, err := to.Write(buf[:out]); err != nil {
			return err
		}
		have = copy(buf, buf[used:have])
	}
}

// squeeze moves the whole frames that keep allows to the front of buf: used bytes are dealt
// with, the first out bytes are to be written.
func squeeze(buf []byte, keep func([]byte) bool) (used, out int, err error) {
	for len(buf)-used >= 4 {
		size := binary.BigEndian.Uint32(buf[used:])
		if size > maxFrame {
			return 0, 0, fmt.Errorf("a frame of %d bytes", size)
		}
		end := used + 4 + int(size)
		if end > len(buf) {
			break
		}
		if keep(buf[used+4 : end]) {
			out += copy(buf[out:], buf[used:end])
		}
		used = end
	}
	return used, out, nil
}
