package serve

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"banger/api"
)

// States of a socket in /proc/net/tcp and udp (include/net/tcp_states.h): a UDP socket that
// only receives is in the state of a closed TCP one.
const (
	tcpListen = "0A"
	udpBound  = "07"
)

// ports lists what listens.
func (s *Server) ports(w http.ResponseWriter, _ *http.Request) error {
	owners := socketOwners()
	out := []api.Port{}
	for _, t := range []struct{ file, protocol, state string }{
		{"tcp", "tcp", tcpListen}, {"tcp6", "tcp", tcpListen}, {"udp", "udp", udpBound}, {"udp6", "udp", udpBound},
	} {
		out = append(out, listeners(t.file, t.protocol, t.state, owners)...)
	}
	slices.SortFunc(out, func(a, b api.Port) int {
		if a.Port != b.Port {
			return a.Port - b.Port
		}
		return strings.Compare(a.Protocol+a.Address, b.Protocol+b.Address)
	})
	return ok(w, slices.Compact(out))
}

func listeners(file, protocol, state string, owners map[string]string) []api.Port {
	f, err := os.Open("/proc/net/" + file)
	if err != nil {
		return nil // no IPv6, no network at all
	}
	defer f.Close()
	var out []api.Port
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if p, inode, ok := parseSocket(sc.Text(), state); ok {
			p.Protocol, p.Process = protocol, owners[inode]
			out = append(out, p)
		}
	}
	return out
}

// parseSocket reads a line of /proc/net/tcp (proc(5)): "sl local remote st … inode".
func parseSocket(line, state string) (p api.Port, inode string, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 || f[3] != state {
		return p, "", false
	}
	addr, port, _ := strings.Cut(f[1], ":")
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil || n == 0 {
		return p, "", false
	}
	a, err := parseAddr(addr)
	if err != nil {
		return p, "", false
	}
	return api.Port{Port: int(n), Address: a.String()}, f[9], true
}

// parseAddr reads an address printed as 32-bit words in the byte order of the machine,
// which is little-endian wherever banger runs.
func parseAddr(s string) (netip.Addr, error) {
	b, err := hex.DecodeString(s)
	if err != nil || (len(b) != 4 && len(b) != 16) {
		return netip.Addr{}, fmt.Errorf("cannot read address %q", s)
	}
	for i := 0; i < len(b); i += 4 {
		slices.Reverse(b[i : i+4])
	}
	a, _ := netip.AddrFromSlice(b)
	return a.Unmap(), nil
}

// socketOwners maps a socket's inode to the name of a program that has it open.
func socketOwners() map[string]string {
	out := map[string]string{}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	names := map[string]string{}
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil {
			continue
		}
		inode, ok := strings.CutPrefix(target, "socket:[")
		if !ok {
			continue
		}
		dir := filepath.Dir(filepath.Dir(fd))
		name, ok := names[dir]
		if !ok {
			comm, _ := os.ReadFile(dir + "/comm")
			name = strings.TrimSpace(string(comm))
			names[dir] = name
		}
		out[strings.TrimSuffix(inode, "]")] = name
	}
	return out
}
