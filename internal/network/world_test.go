package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/host/local"
)

// patience bounds waits for what must happen, impatience tries of what must not succeed.
const (
	patience   = 10 * time.Second
	impatience = 700 * time.Millisecond
)

// space is a network namespace with work done in it.
type space struct{ ns netns.NsHandle }

func newSpace(t *testing.T) space {
	t.Helper()
	var s space
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		var err error
		s.ns, err = netns.New()
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("cannot make a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = s.ns.Close() })
	return s
}

// do runs fn on a thread in the namespace.
func (s space) do(t *testing.T, fn func() error) {
	t.Helper()
	if err := s.try(fn); err != nil {
		t.Fatal(err)
	}
}

func (s space) try(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := netns.Set(s.ns)
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	return <-done
}

// up gives a link an address and brings it up.
func up(name, cidr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if cidr != "" {
		a, err := netlink.ParseAddr(cidr)
		if err != nil {
			return err
		}
		if err := netlink.AddrReplace(link, a); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

func addRoute(dst, via string) error {
	r := &netlink.Route{Gw: net.ParseIP(via)}
	if dst != "" {
		_, r.Dst, _ = net.ParseCIDR(dst)
	}
	return netlink.RouteReplace(r)
}

// nft applies rules that are not banger's to make.
func nft(ctx context.Context, text string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// noRules takes banger's away.
var noRules = host.Rules{Bridge: DefaultBridge, Remove: true}.Text()

// world is the host (this process's namespace), and a network beyond it, joined by a cable.
type world struct {
	t      *testing.T
	host   *local.Host
	beyond space
	o      Options
	// heirs are the Networks of daemons that came after another.
	heirs map[*Network]*Network
}

// next is the Network of the daemon that comes after n's, which has died.
func (w *world) next(n *Network) *Network {
	w.t.Helper()
	if err := n.Close(); err != nil { // what the kernel does to a killed daemon's sockets
		w.t.Fatal(err)
	}
	w.heirs[n] = New(w.o)
	return w.heirs[n]
}

// detach is for the end of a test.
func (w *world) detach(n *Network, g Guest) {
	for w.heirs[n] != nil {
		n = w.heirs[n]
	}
	if err := n.Detach(context.Background(), g); err != nil {
		w.t.Errorf("detach: %v", err)
	}
}

const (
	uplinkHost   = "198.51.100.1"
	uplinkBeyond = "198.51.100.2"
)

// newWorld joins a fresh namespace as the network beyond; it has no route to the guests. Everything is taken apart after the test.
func newWorld(t *testing.T) *world {
	needsRoot(t)
	w := &world{t: t, host: local.New(), beyond: newSpace(t), heirs: map[*Network]*Network{}}
	cable(t, "up0", uplinkHost+"/24", w.beyond, uplinkBeyond+"/24")
	if err := errors.Join(up("lo", ""), addRoute("", uplinkBeyond), w.host.SetSysctl(ipForward, "0")); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755)); err != nil { // VMs' uids read it
		t.Fatal(err)
	}
	resolv := filepath.Join(dir, "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver "+uplinkBeyond+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.o = Options{
		Host: w.host, Paths: config.Paths{State: t.TempDir()}, ResolvConf: resolv,
		Subnet: netip.MustParsePrefix("10.213.0.0/16"), UserFilter: []string{"/proc/self/exe", "net-filter"},
	}
	return w
}

// cable makes a pair of links, one here, the other as eth0 in s.
func cable(t *testing.T, name, cidr string, s space, there string) {
	t.Helper()
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(s.ns)}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(pair) })
	if err := up(name, cidr); err != nil {
		t.Fatal(err)
	}
	s.do(t, func() error { return errors.Join(up("lo", ""), up("eth0", there)) })
}

// answering is a TCP listener that tells who connected, and a UDP socket that tells what it got.
type answering struct {
	mu   sync.Mutex
	from []string
	tcp  net.Listener
	udp  net.PacketConn
}

// answer listens on addr in the calling thread's namespace and answers TCP with "hello".
func answer(t *testing.T, addr string) *answering {
	t.Helper()
	a := &answering{}
	var err error
	if a.tcp, err = net.Listen("tcp4", addr); err != nil {
		t.Error(err)
		return a
	}
	if a.udp, err = net.ListenPacket("udp4", addr); err != nil {
		t.Error(err)
		return a
	}
	t.Cleanup(func() { _, _ = a.tcp.Close(), a.udp.Close() })
	go func() {
		for {
			c, err := a.tcp.Accept()
			if err != nil {
				return
			}
			a.saw(c.RemoteAddr())
			_, _ = c.Write([]byte("hello"))
			_ = c.Close()
		}
	}()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := a.udp.ReadFrom(buf)
			if err != nil {
				return
			}
			a.saw(from)
			_, _ = a.udp.WriteTo(buf[:n], from)
		}
	}()
	return a
}

func (a *answering) saw(from net.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.from = append(a.from, from.String())
}

func (a *answering) seen() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.from)
}

// call connects and reads "hello".
func call(addr string, within time.Duration) error {
	c, err := net.DialTimeout("tcp4", addr, within)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(within))
	text, err := io.ReadAll(c)
	if err == nil && string(text) != "hello" {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// ping sends a datagram and waits for its echo.
func ping(addr string, within time.Duration) error {
	c, err := net.Dial("udp4", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(within))
	if _, err := c.Write([]byte("anybody there")); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 100))
	return err
}

// ask puts one question to a DNS server.
func ask(server, name string, qtype uint16, network string) (*mdns.Msg, error) {
	c := &mdns.Client{Net: network, Timeout: patience}
	m, _, err := c.Exchange(new(mdns.Msg).SetQuestion(name, qtype), server)
	return m, err
}

// resolver answers every A question in a namespace with one address.
func resolver(t *testing.T, s space, addr string, a netip.Addr) {
	t.Helper()
	s.do(t, func() error { resolverHere(t, addr, a); return nil })
}

func resolverHere(t *testing.T, addr string, a netip.Addr) {
	h := mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg).SetReply(q)
		m.Answer = append(m.Answer, &mdns.A{
			Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 60}, A: a.AsSlice(),
		})
		_ = w.WriteMsg(m)
	})
	pc, err := net.ListenPacket("udp4", addr)
	if err != nil {
		t.Error(err)
		return
	}
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		t.Error(err)
		return
	}
	for _, srv := range []*mdns.Server{{PacketConn: pc, Handler: h}, {Listener: l, Handler: h}} {
		go func() { _ = srv.ActivateAndServe() }()
		t.Cleanup(func() { _ = srv.Shutdown() })
	}
}

// machine stands for a VM: a namespace whose eth0 is cabled to the VMM's end of the link, frame by frame.
type machine struct {
	space
	guest Guest
	link  Link
	wire  io.ReadWriteCloser // the VMM's side: raw frames can be put in here
	ether io.ReadWriteCloser // the guest's side
}

// attach makes a machine with a tap. It is in no bridge yet.
func (w *world) attach(n *Network, id string, taken ...netip.Addr) *machine {
	w.t.Helper()
	ip, err := n.AllocateIP(taken)
	if err != nil {
		w.t.Fatal(err)
	}
	g := Guest{ID: id, Name: "vm-" + id[:4], Kind: api.NetBridge, MAC: MACFor(id).String(), IP: ip}
	m := &machine{space: newSpace(w.t), guest: g}
	w.t.Cleanup(func() { w.detach(n, g) })
	if m.link, err = n.Attach(w.t.Context(), g, func(host.Process) error { return nil }); err != nil {
		w.t.Fatal(err)
	}
	m.wire = vnet{m.link.Tap}
	m.plugIn(w.t, n)
	return m
}

// plugIn sets up the guest's side as the agent would, and copies frames both ways.
func (m *machine) plugIn(t *testing.T, n *Network) {
	t.Helper()
	m.do(t, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		req, _ := unix.NewIfreq("eth0")
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			return err
		}
		m.ether = os.NewFile(uintptr(fd), "eth0")
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		c := n.GuestConfig(m.guest)
		mac, _ := net.ParseMAC(c.MAC)
		return errors.Join(netlink.LinkSetHardwareAddr(link, mac), up("lo", ""), up("eth0", c.Address), addRoute("", c.Gateway))
	})
	var done sync.WaitGroup
	t.Cleanup(func() {
		_, _ = m.wire.Close(), m.ether.Close()
		done.Wait()
	})
	done.Go(func() { _, _ = io.CopyBuffer(plain{m.wire}, plain{m.ether}, make([]byte, 1<<16)) })
	done.Go(func() { _, _ = io.CopyBuffer(plain{m.ether}, plain{m.wire}, make([]byte, 1<<16)) })
}

// plain hides everything but Read and Write, so that frames stay whole.
type plain struct{ io.ReadWriter }

// vnet is a tap whose frames carry a virtio-net header of ten bytes.
type vnet struct{ *os.File }

func (v vnet) Write(p []byte) (int, error) {
	n, err := v.File.Write(append(make([]byte, 10, 10+len(p)), p...))
	return max(0, n-10), err
}

func (v vnet) Read(p []byte) (int, error) {
	buf := make([]byte, 10+len(p))
	n, err := v.File.Read(buf)
	if n < 10 {
		return 0, err
	}
	return copy(p, buf[10:n]), err
}

// framed is a stream of frames with their lengths.
type framed struct{ net.Conn }

func (f framed) Write(p []byte) (int, error) {
	_, err := f.Conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(p))), p...))
	return len(p), err
}

func (f framed) Read(p []byte) (int, error) {
	var size [4]byte
	if _, err := io.ReadFull(f.Conn, size[:]); err != nil {
		return 0, err
	}
	return io.ReadFull(f.Conn, p[:binary.BigEndian.Uint32(size[:])])
}

// footprint is all that a network could leave on the host.
func (w *world) footprint() string {
	w.t.Helper()
	rules, err := w.host.Rules(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	slices.Sort(names)
	forward, err := w.host.Sysctl(ipForward)
	if err != nil {
		w.t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(w.o.Paths.State, "*"))
	if err != nil {
		w.t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(f string) bool { return f == w.o.Paths.VMs() })
	return strings.Join(names, " ") + "\nforward " + forward + "\nfiles " + strings.Join(files, " ") + "\n" + rules
}
