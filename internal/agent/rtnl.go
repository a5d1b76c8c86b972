package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a thawed guest does for the first time is slow under emulation, instruction by instruction. So the few messages
// that each clone sends to its kernel are made by hand (rtnetlink(7)), and all answered in one go.

// rtMessage is one request.
type rtMessage struct {
	kind, flags uint16
	body        []byte
	what        string // for the error, with:
	about       fmt.Stringer
}

// change sends requests, which the kernel works off in order, and returns the first error.
func (d *netDevice) change(msgs ...rtMessage) error {
	if len(msgs) == 0 {
		return nil
	}
	var failed error
	answered := 0
	err := d.ask(msgs, func(kind uint16, seq int, body []byte) bool {
		if kind != unix.NLMSG_ERROR || len(body) < 4 {
			return true
		}
		answered++
		if errno := int32(binary.NativeEndian.Uint32(body)); errno != 0 && failed == nil && seq < len(msgs) {
			failed = fmt.Errorf("cannot %s %v: %w", msgs[seq].what, msgs[seq].about, unix.Errno(-errno))
		}
		return answered < len(msgs)
	})
	return errors.Join(err, failed)
}

// ask sends requests and hands over the kernel's messages until more says no. These must have been the last.
func (d *netDevice) ask(msgs []rtMessage, more func(kind uint16, seq int, body []byte) bool) (err error) {
	if err := d.connect(); err != nil {
		return err
	}
	defer func() {
		if err != nil { // what is still to come would be taken for the answer to the next
			d.disconnect()
		}
	}()
	ne := binary.NativeEndian
	var out []byte
	for i, m := range msgs {
		out = ne.AppendUint32(out, uint32(unix.NLMSG_HDRLEN+len(m.body)))
		out = ne.AppendUint16(out, m.kind)
		out = ne.AppendUint16(out, m.flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
		out = ne.AppendUint32(out, uint32(i))
		out = ne.AppendUint32(out, 0)
		out = append(out, m.body...) // a multiple of 4 bytes
	}
	if err := unix.Sendto(d.route, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("cannot talk to the kernel's network: %w", err)
	}
	buf := d.answers
	for {
		n, err := unix.Read(d.route, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot talk to the kernel's network: %w", err)
		}
		if !rtMessages(buf[:n], more) {
			return nil
		}
	}
}

// rtMessages takes apart what came in one piece, until more says no.
func rtMessages(p []byte, more func(kind uint16, seq int, body []byte) bool) bool {
	ne := binary.NativeEndian
	for len(p) >= unix.NLMSG_HDRLEN {
		size := int(ne.Uint32(p))
		if size < unix.NLMSG_HDRLEN || size > len(p) {
			break
		}
		if !more(ne.Uint16(p[4:]), int(ne.Uint32(p[8:])), p[unix.NLMSG_HDRLEN:size]) {
			return false
		}
		p = p[min((size+3)&^3, len(p)):]
	}
	return true
}

// addresses are the IPv4 addresses of the device with this index.
func (d *netDevice) addresses(index int) (out []*net.IPNet, err error) {
	ne := binary.NativeEndian
	ask := rtMessage{kind: unix.RTM_GETADDR, flags: unix.NLM_F_DUMP, body: []byte{unix.AF_INET, 0, 0, 0, 0, 0, 0, 0}}
	rtErr := d.ask([]rtMessage{ask}, func(kind uint16, _ int, m []byte) bool {
		switch {
		case kind == unix.NLMSG_ERROR && len(m) >= 4 && ne.Uint32(m) != 0:
			err = unix.Errno(-int32(ne.Uint32(m)))
			return false
		case kind == unix.NLMSG_DONE || kind == unix.NLMSG_ERROR:
			return false
		case kind != unix.RTM_NEWADDR || len(m) < unix.SizeofIfAddrmsg || ne.Uint32(m[4:]) != uint32(index):
			return true
		}
		for a := m[unix.SizeofIfAddrmsg:]; len(a) >= unix.SizeofRtAttr; {
			size := int(ne.Uint16(a))
			if size < unix.SizeofRtAttr || size > len(a) {
				break
			}
			if ne.Uint16(a[2:]) == unix.IFA_LOCAL && size == 8 {
				out = append(out, &net.IPNet{IP: slices.Clone(a[4:8]), Mask: net.CIDRMask(int(m[1]), 32)})
			}
			a = a[min((size+3)&^3, len(a)):]
		}
		return true
	})
	if err = errors.Join(rtErr, err); err != nil {
		return nil, fmt.Errorf("cannot list addresses: %w", err)
	}
	return out, nil
}

// attribute is struct rtattr with a value of 4 bytes.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, 8)
	b = binary.NativeEndian.AppendUint16(b, kind)
	return append(b, value...)
}

// addAddress gives a device an IPv4 address; one that it has already is no error.
func addAddress(index int, ip *net.IPNet) rtMessage {
	ones, _ := ip.Mask.Size()
	a := ip.IP.To4()
	// struct ifaddrmsg: family, prefix length, flags, scope, index
	body := binary.NativeEndian.AppendUint32([]byte{unix.AF_INET, byte(ones), 0, unix.RT_SCOPE_UNIVERSE}, uint32(index))
	body = attribute(attribute(body, unix.IFA_LOCAL, a), unix.IFA_ADDRESS, a)
	if ones < 31 {
		all := make(net.IP, 4)
		for i := range all {
			all[i] = a[i] | ^ip.Mask[i]
		}
		body = attribute(body, unix.IFA_BROADCAST, all)
	}
	return rtMessage{unix.RTM_NEWADDR, unix.NLM_F_CREATE | unix.NLM_F_REPLACE, body, "set address", ip}
}

func removeAddress(index int, ip *net.IPNet) rtMessage {
	ones, _ := ip.Mask.Size()
	body := binary.NativeEndian.AppendUint32([]byte{unix.AF_INET, byte(ones), 0, 0}, uint32(index))
	return rtMessage{unix.RTM_DELADDR, 0, attribute(body, unix.IFA_LOCAL, ip.IP.To4()), "remove address", ip}
}

// addDefaultRoute replaces the default route; the gateway counts as on the link.
func addDefaultRoute(index int, gateway net.IP) rtMessage {
	// struct rtmsg: family, lengths of destination and source, tos, table, protocol, scope, type, flags
	body := []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST}
	body = binary.NativeEndian.AppendUint32(body, unix.RTNH_F_ONLINK)
	body = attribute(body, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
	body = attribute(body, unix.RTA_GATEWAY, gateway.To4())
	return rtMessage{unix.RTM_NEWROUTE, unix.NLM_F_CREATE | unix.NLM_F_REPLACE, body, "set the default route via", gateway}
}

// ifreq is struct ifreq (netdevice(7)).
type ifreq struct {
	name [unix.IFNAMSIZ]byte
	data [24]byte
}

// netDevice is a network device by its name, looked at and changed by ioctls.
type netDevice struct {
	fd   int
	name string
	// route is a socket for requests of rtnetlink(7), below 0 where there is none yet, and answers is for what comes back.
	route   int
	answers []byte
	// mouth is a socket for whole frames, which hears nothing, below 0 where there is none yet. It stays open: closing one makes the
	// kernel wait until nobody can be in it any more.
	mouth int
}

func openDevice(name string) (*netDevice, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot look at %s: %w", name, err)
	}
	return &netDevice{fd: fd, name: name, route: -1, mouth: -1}, nil
}

func (d *netDevice) close() {
	d.disconnect()
	if d.mouth >= 0 {
		_ = unix.Close(d.mouth)
	}
	_ = unix.Close(d.fd)
}

// connect makes the device ready for requests.
func (d *netDevice) connect() error {
	if d.route >= 0 {
		return nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot talk to the kernel's network: %w", err)
	}
	d.route = fd
	if d.answers == nil {
		d.answers = make([]byte, 32<<10)
	}
	return nil
}

// openMouth makes it ready for frames.
func (d *netDevice) openMouth() (err error) {
	if d.mouth >= 0 {
		return nil
	}
	// Protocol 0: it only sends.
	if d.mouth, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return fmt.Errorf("cannot send on %s: %w", d.name, err)
	}
	return nil
}

func (d *netDevice) disconnect() {
	if d.route >= 0 {
		_ = unix.Close(d.route)
		d.route = -1
	}
}

func (d *netDevice) ioctl(request uintptr, r *ifreq, what string) error {
	copy(r.name[:unix.IFNAMSIZ-1], d.name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd), request, uintptr(unsafe.Pointer(r))); errno != 0 {
		return fmt.Errorf("cannot %s %s: %w", what, d.name, errno)
	}
	return nil
}

func (d *netDevice) number(request uintptr, what string) (int, error) {
	var r ifreq
	err := d.ioctl(request, &r, what)
	return int(int32(binary.NativeEndian.Uint32(r.data[:]))), err
}

func (d *netDevice) index() (int, error) { return d.number(unix.SIOCGIFINDEX, "find") }
func (d *netDevice) mtu() (int, error)   { return d.number(unix.SIOCGIFMTU, "read the MTU of") }

func (d *netDevice) setMTU(n int) error {
	var r ifreq
	binary.NativeEndian.PutUint32(r.data[:], uint32(n))
	return d.ioctl(unix.SIOCSIFMTU, &r, "set the MTU of")
}

func (d *netDevice) flags() (uint32, error) {
	var r ifreq
	err := d.ioctl(unix.SIOCGIFFLAGS, &r, "look at")
	return uint32(binary.NativeEndian.Uint16(r.data[:])), err
}

func (d *netDevice) up() (bool, error) {
	flags, err := d.flags()
	return flags&unix.IFF_UP != 0, err
}

func (d *netDevice) setUp(on bool) error {
	flags, err := d.flags()
	if err != nil || (flags&unix.IFF_UP != 0) == on {
		return err
	}
	var r ifreq
	binary.NativeEndian.PutUint16(r.data[:], uint16(flags^unix.IFF_UP))
	what := "take down"
	if on {
		what = "bring up"
	}
	return d.ioctl(unix.SIOCSIFFLAGS, &r, what)
}

// hardware is the device's MAC address; its family comes before it (struct sockaddr).
func (d *netDevice) hardware() (net.HardwareAddr, error) {
	var r ifreq
	err := d.ioctl(unix.SIOCGIFHWADDR, &r, "read the MAC address of")
	return net.HardwareAddr(r.data[2:8]), err
}

func (d *netDevice) setHardware(mac net.HardwareAddr) error {
	var r ifreq
	binary.NativeEndian.PutUint16(r.data[:], unix.ARPHRD_ETHER)
	copy(r.data[2:8], mac)
	return d.ioctl(unix.SIOCSIFHWADDR, &r, "set the MAC address of")
}
