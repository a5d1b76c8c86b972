package machine

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// namespace is a network of a box's own: loopback only, until uplink.
type namespace struct {
	t      *testing.T
	name   string
	beyond *namespace
}

func newNamespace(t *testing.T, name string) *namespace {
	t.Helper()
	n := &namespace{t: t, name: name}
	ip(t, "netns", "add", name)
	ip(t, "-n", name, "link", "set", "lo", "up")
	return n
}

// Addresses of the two ends of an uplink: documentation prefix, no host of ours has them.
const (
	uplinkHere   = "198.51.100.1"
	uplinkBeyond = "198.51.100.2"
)

// uplink makes a second namespace, "beyond", behind the first one's default route. Beyond
// has no route back: only what was masqueraded gets an answer.
func (n *namespace) uplink() *namespace {
	n.t.Helper()
	b := newNamespace(n.t, n.name+"x")
	n.beyond = b
	ip(n.t, "-n", n.name, "link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", b.name)
	for _, end := range []struct{ ns, dev, addr string }{{n.name, "up0", uplinkHere}, {b.name, "down0", uplinkBeyond}} {
		ip(n.t, "-n", end.ns, "addr", "add", end.addr+"/24", "dev", end.dev)
		ip(n.t, "-n", end.ns, "link", "set", end.dev, "up")
	}
	ip(n.t, "-n", n.name, "route", "add", "default", "via", uplinkBeyond)
	return b
}

func (n *namespace) path() string { return filepath.Join("/run/netns", n.name) }

// start runs a program in the namespace until the test ends.
func (n *namespace) start(program string, args ...string) *exec.Cmd {
	n.t.Helper()
	cmd := exec.Command("nsenter", append([]string{"--net=" + n.path(), program}, args...)...)
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// output is what a program prints in the namespace.
func (n *namespace) output(program string, args ...string) string {
	n.t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--net=" + n.path(), program}, args...)...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// processes are the pids in the namespace: whatever banger started is in it, whoever it runs as.
func (n *namespace) processes() []int {
	n.t.Helper()
	var want, st syscall.Stat_t
	if err := syscall.Stat(n.path(), &want); err != nil {
		n.t.Fatal(err)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		n.t.Fatal(err)
	}
	var pids []int
	for _, d := range dirs {
		if syscall.Stat(filepath.Join(d, "ns/net"), &st) != nil || st.Ino != want.Ino || st.Dev != want.Dev {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(d)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// links are the names of the network devices.
func (n *namespace) links() []string {
	n.t.Helper()
	var names []string
	for line := range strings.Lines(n.output("ip", "-o", "link")) {
		if f := strings.Fields(line); len(f) > 1 {
			name, _, _ := strings.Cut(strings.TrimSuffix(f[1], ":"), "@")
			names = append(names, name)
		}
	}
	return names
}

func (n *namespace) close() {
	if n.beyond != nil {
		n.beyond.close()
	}
	ip(n.t, "netns", "del", n.name)
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func commandLine(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(strings.TrimRight(string(text), "\x00"), "\x00", " ")
}

// dial connects from within the namespace.
func (n *namespace) dial(address string) (conn net.Conn) {
	n.t.Helper()
	n.within(func() (err error) {
		conn, err = net.Dial("tcp", address)
		return err
	})
	n.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// listenUDP takes an address in the namespace.
func (n *namespace) listenUDP(address string) (conn net.PacketConn) {
	n.t.Helper()
	n.within(func() (err error) {
		conn, err = net.ListenPacket("udp", address)
		return err
	})
	n.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// within runs fn on a thread that is in the namespace: for addresses, which need no other goroutine.
func (n *namespace) within(fn func() error) {
	n.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		n.t.Fatal(err)
	}
	defer own.Close()
	its, err := os.Open(n.path())
	if err != nil {
		n.t.Fatal(err)
	}
	defer its.Close()
	if err := unix.Setns(int(its.Fd()), unix.CLONE_NEWNET); err != nil {
		n.t.Fatal(err)
	}
	err = fn()
	if err := errors.Join(err, unix.Setns(int(own.Fd()), unix.CLONE_NEWNET)); err != nil {
		n.t.Fatal(err)
	}
}
