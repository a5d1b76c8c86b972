package agent

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// connection is a TCP connection of this guest.
type connection struct{ local, remote net.TCPAddr }

// cutConnections ends the TCP connections from addresses that this guest had: its source has them too, and goes on
// with them. Programs see them as aborted. It is called when the addresses are gone and the device is down, so that
// nothing of this reaches the other end.
func cutConnections(had []*net.IPNet) error {
	found, err := connections(func(ip net.IP) bool {
		return slices.ContainsFunc(had, func(a *net.IPNet) bool { return a.IP.Equal(ip) })
	})
	if err != nil || len(found) == 0 {
		return err
	}
	// The kernel would look for a modprobe, which an image may lack.
	for _, name := range []string{"inet_diag", "tcp_diag"} {
		if err := loadNetModule(name); err != nil {
			return err
		}
	}
	for _, c := range found {
		if err := netlink.SocketDestroy(&c.local, &c.remote); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cannot cut off the connection to %v: %w", &c.remote, err)
		}
	}
	return nil
}

// connections are those from an address that is wanted, sockets of both families included.
func connections(wanted func(net.IP) bool) ([]connection, error) {
	var out []connection
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := os.ReadFile(table)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list connections: %w", err)
		}
		for line := range strings.Lines(string(data)) {
			if c, ok := parseConnection(line); ok && wanted(c.local.IP) {
				out = append(out, c)
			}
		}
	}
	return out, nil
}

// parseConnection reads a line of /proc/net/tcp or tcp6 (proc(5)): number, local, remote, state, …
func parseConnection(line string) (c connection, ok bool) {
	const listening = "0A"
	f := strings.Fields(line)
	if len(f) < 4 || f[3] == listening {
		return c, false
	}
	for i, a := range []*net.TCPAddr{&c.local, &c.remote} {
		address, port, _ := strings.Cut(f[1+i], ":")
		n, err1 := strconv.ParseUint(port, 16, 16)
		ip, err2 := hex.DecodeString(address)
		if err1 != nil || err2 != nil || (len(ip) != 4 && len(ip) != 16) {
			return c, false
		}
		for w := 0; w < len(ip); w += 4 { // words in this machine's order
			binary.BigEndian.PutUint32(ip[w:], binary.NativeEndian.Uint32(ip[w:]))
		}
		a.IP, a.Port = ip, int(n)
	}
	return c, true
}

// loadNetModule loads a module of net/ipv4 from the guest's modules, if the kernel has it as one.
func loadNetModule(name string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	files, _ := filepath.Glob(filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]), "kernel/net/ipv4", name+".ko*"))
	if len(files) == 0 {
		return nil
	}
	f, err := os.Open(files[0])
	if err != nil {
		return fmt.Errorf("cannot load module %s: %w", name, err)
	}
	defer f.Close()
	return finishLoad(f, name)
}
