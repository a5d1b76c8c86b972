package serve

import (
	"errors"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"banger/api"
	"banger/api/agentapi"
)

// activity is what goes on in the guest that its host does not see.
func (s *Server) activity(w http.ResponseWriter, _ *http.Request) error {
	sessions, err := s.runningSessions()
	if err != nil {
		return err
	}
	a := agentapi.Activity{Sessions: sessions}
	if s.o.Root == "/" { // another root is a guest of tests: the connections here are not its
		a.Connections = outside(allConnections(s.hasContainers()))
	}
	return ok(w, a)
}

func (s *Server) runningSessions() (int, error) {
	entries, err := os.ReadDir(s.o.SessionDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, api.Errorf(api.CodeInternal, "cannot list the sessions: %w", err)
	}
	n := 0
	for _, e := range entries {
		// There may be many that have ended long ago: no more is read of those than the one word.
		if t, err := s.trace(e.Name()); err == nil && !t.over() && t.held() {
			n++
		}
	}
	return n, nil
}

// endpoints are the two ends of a TCP connection.
type endpoints struct{ local, remote netip.AddrPort }

// hasContainers reports whether the guest has network devices beside its own two. Other network namespaces that lead
// anywhere hang on such a one; without any, a look at every process is saved, which is most of what this costs.
func (s *Server) hasContainers() bool {
	devices, err := os.ReadDir("/sys/class/net")
	return err != nil || slices.ContainsFunc(devices, func(d os.DirEntry) bool { return d.Name() != "lo" && d.Name() != s.o.NetDevice })
}

// allConnections are those of this network namespace or, if so asked, of each that a process is in.
func allConnections(everywhere bool) []endpoints {
	if !everywhere {
		return connectionsOf("/proc/self")
	}
	var out []endpoints
	seen := map[string]bool{}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		namespace, err := os.Readlink(filepath.Join(p, "ns/net"))
		if err == nil && !seen[namespace] { // else it has just ended
			seen[namespace] = true
			out = append(out, connectionsOf(p)...)
		}
	}
	return out
}

// connectionsOf are those that a process, a directory of /proc, could see.
func connectionsOf(process string) []endpoints {
	var out []endpoints
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		text, err := os.ReadFile(filepath.Join(process, table))
		if err != nil {
			continue // no IPv6
		}
		for line := range strings.Lines(string(text)) {
			if c, ok := parseEstablished(line); ok {
				out = append(out, c)
			}
		}
	}
	return out
}

// parseEstablished reads a line of /proc/net/tcp (proc(5)) in the states ESTABLISHED, SYN_SENT or SYN_RECV
// (include/net/tcp_states.h): "sl local remote st …".
func parseEstablished(line string) (c endpoints, ok bool) {
	f := strings.Fields(line)
	if len(f) < 4 || f[3] != "01" && f[3] != "02" && f[3] != "03" {
		return c, false
	}
	for i, end := range []*netip.AddrPort{&c.local, &c.remote} {
		text, port, _ := strings.Cut(f[1+i], ":")
		n, err := strconv.ParseUint(port, 16, 16)
		if err != nil {
			return c, false
		}
		a, err := parseAddr(text)
		if err != nil {
			return c, false
		}
		*end = netip.AddrPortFrom(a, uint16(n))
	}
	return c, true
}

// outside counts the connections whose other end is not in this guest.
func outside(all []endpoints) int {
	here := make(map[endpoints]bool, len(all))
	for _, c := range all {
		here[c] = true
	}
	n := 0
	for _, c := range all {
		if !c.remote.Addr().IsLoopback() && !here[endpoints{c.remote, c.local}] {
			n++
		}
	}
	return n
}
