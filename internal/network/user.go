package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
	"banger/internal/network/sieve"
)

// The addresses of every guest with a user network: each has a network of its own.
var (
	userNet      = netip.MustParsePrefix("10.0.2.0/24")
	userGateway  = netip.MustParseAddr("10.0.2.2")
	userResolver = netip.MustParseAddr("10.0.2.3")
	userIP       = netip.MustParseAddr("10.0.2.15")
)

// UserIP is the address of every guest with a user network.
func UserIP() netip.Addr { return userIP }

const (
	// userMTU is passt's largest. Its connections are the host's own, so nothing on the way
	// ever sees a packet of that size, and large ones are several times faster.
	userMTU = 65520
	// passtTime is far more than passt needs to start (15 ms).
	passtTime = 10 * time.Second
	endTime   = 5 * time.Second
)

// gatewayMAC is what the guest sees its gateway as. It is on passt's command line, and so tells whose passt it is.
func gatewayMAC(id string) net.HardwareAddr { return derivedMAC("gateway of " + id) }

// attachUser starts passt, sees that it works, and puts the sieve before it. The sieve is the
// process to record: passt ends when it does.
func (n *Network) attachUser(ctx context.Context, g Guest, record func(host.Process) error) (_ Link, err error) {
	if len(n.o.UserFilter) == 0 {
		return Link{}, api.Errorf(api.CodeInternal, "no program to filter user networks is configured")
	}
	if err := n.Check(api.NetUser); err != nil {
		return Link{}, err
	}
	if err := n.detachUser(ctx, g); err != nil { // left by a crash
		return Link{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.detachUser(context.WithoutCancel(ctx), g))
		}
	}()
	p := n.o.Paths.VM(g.ID)
	uid, err := host.VMMOf(filepath.Dir(p.NetSocket()))
	if err != nil {
		return Link{}, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return Link{}, err
	}
	defer ours.Close()
	defer theirs.Close()
	passt := host.Command{Path: "passt", Args: passtArgs(g.ID), UID: uid, GID: uid, Files: []*os.File{theirs}, LogPath: p.NetLog()}
	if _, err := n.o.Host.Spawn(passt); err != nil {
		return Link{}, err
	}
	_ = theirs.Close() // so that the end of passt is seen
	if err := n.probe(ctx, ours, g); err != nil {
		return Link{}, fmt.Errorf("passt does not work: %w%s", err, tailOf(p.NetLog()))
	}
	listener, err := n.listenFor(p.NetSocket(), uid)
	if err != nil {
		return Link{}, err
	}
	defer listener.Close()
	filter := host.Command{
		Path: n.o.UserFilter[0], Args: append(slices.Clone(n.o.UserFilter[1:]), "--socket", p.NetSocket(), "--guest", userIP.String(),
			"--resolver", userResolver.String(), "--resolv-conf", n.o.ResolvConf),
		UID: uid, GID: uid, Files: []*os.File{listener, ours}, LogPath: p.NetLog(),
	}
	proc, err := n.o.Host.Spawn(filter)
	if err != nil {
		return Link{}, err
	}
	if record != nil {
		if err := record(proc); err != nil {
			return Link{}, errors.Join(err, n.end(context.WithoutCancel(ctx), proc))
		}
	}
	return Link{Socket: p.NetSocket()}, nil
}

// passtArgs: IPv4 only, nothing offered (the agent sets the guest up), no ports forwarded in.
// It gets its connection as descriptor 3; Debian's AppArmor profile would not let it make a socket in our directories.
// Its --dns-forward is not used: in Debian 12 it asks 0.0.0.0 as soon as --dns is there (measured), and it knows
// UDP only; the sieve does that. With "-i lo" it asks no interface for addresses, and starts on a host that is offline, too.
func passtArgs(id string) []string {
	return []string{
		"--foreground", "--quiet", "--stderr", "--ipv4-only", "--fd", "3", "--no-map-gw", "--interface", "lo",
		"--address", userIP.String(), "--netmask", fmt.Sprint(userNet.Bits()), "--gateway", userGateway.String(),
		"--mac-addr", gatewayMAC(id).String(), "--no-dhcp", "--no-ndp", "--no-dhcpv6", "--no-ra",
		"--tcp-ports", "none", "--udp-ports", "none", "--search", "none", "--dns", "none",
	}
}

// probe asks passt who has the gateway's address; its answer says that it is up.
func (n *Network) probe(ctx context.Context, f *os.File, g Guest) error {
	c, err := net.FileConn(f)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, passtTime)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	mac := g.mac()
	if len(mac) != 6 {
		return api.Errorf(api.CodeInvalid, "%q is no hardware address", g.MAC)
	}
	frame := slices.Concat(
		[]byte{255, 255, 255, 255, 255, 255}, mac, []byte{8, 6}, // Ethernet: ARP
		[]byte{0, 1, 8, 0, 6, 4, 0, 1}, mac, userIP.AsSlice(), make([]byte, 6), userGateway.AsSlice(), // request
	)
	if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		return err
	}
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	answer := make([]byte, min(binary.BigEndian.Uint32(size[:]), 1<<16))
	if _, err := io.ReadFull(c, answer); err != nil {
		return fmt.Errorf("half an answer: %w", err)
	}
	return nil
}

// detachUser ends the processes of a guest's user network, found by what is on their command
// lines, and removes the socket.
func (n *Network) detachUser(ctx context.Context, g Guest) error {
	socket := n.o.Paths.VM(g.ID).NetSocket()
	pids, err := n.o.Host.PIDs()
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		argv, err := n.o.Host.CommandLine(pid)
		if err != nil || !carries(argv, g.ID, socket) {
			continue // gone by now, or another's
		}
		if p, ok := n.o.Host.Identify(pid); ok {
			errs = append(errs, n.end(ctx, p))
		}
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// carries reports whether this is the command line of a guest's passt or sieve.
func carries(argv []string, id, socket string) bool {
	if len(argv) == 0 {
		return false
	}
	if strings.HasPrefix(filepath.Base(argv[0]), "passt") {
		return slices.Contains(argv, gatewayMAC(id).String())
	}
	return slices.Contains(argv, sieve.Name) && slices.Contains(argv, socket)
}

func (n *Network) end(ctx context.Context, p host.Process) error {
	if err := n.o.Host.Signal(p, syscall.SIGKILL); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	return n.o.Host.Wait(ctx, p)
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a pair of sockets: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "passt"), os.NewFile(uintptr(fds[1]), "passt"), nil
}

// listenFor makes a socket that the VMM's uid may connect to. The directory is that uid's, so nothing in it
// is followed.
func (n *Network) listenFor(path string, uid int) (*os.File, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot make the network socket: %w", err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	if uid != 0 {
		if err := n.o.Host.Give(path, uid); err != nil {
			return nil, err
		}
	}
	return l.File()
}

// tailOf is the end of a log, to be put behind an error.
func tailOf(path string) string {
	text, err := os.ReadFile(path)
	if err != nil || len(text) == 0 {
		return ""
	}
	return "\n" + strings.TrimSpace(string(text[max(0, len(text)-1000):]))
}
