package agent

import (
	"context"
	"encoding/binary"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// announcer tells the network who this guest is, each time that its cable is plugged in: a clone or a fork has
// set its addresses by then, and nobody else says which port they are at now.
type announcer struct {
	once sync.Once
	// again: the next word of the device counts as news, though it was plugged in already.
	again atomic.Bool
}

// start begins to watch, once. Nothing listens in a template: each change of a device costs its kernel more as
// long as somebody does.
func (a *announcer) start(ctx context.Context) {
	a.again.Store(true)
	a.once.Do(func() { time.AfterFunc(announceAfter, func() { a.run(ctx) }) })
}

// announceAfter lets what a clone was made for go first: all that it does for the first time takes long under
// emulation. Until then who looks for its address asks for it (ARP), and only who knew another machine under that
// address has to wait.
const announceAfter = 500 * time.Millisecond

// run returns when ctx ends.
func (a *announcer) run(ctx context.Context) {
	for {
		err := a.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		console("cannot watch the network device: %v", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// watch reads the kernel's words on devices (rtnetlink(7), RTMGRP_LINK) until that fails or ctx ends.
func (a *announcer) watch(ctx context.Context) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "netlink")
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })()
	plugged := map[int32]bool{}
	buf := make([]byte, 16<<10)
	// It may have been plugged in before anybody listened.
	if name, err := nic(); err == nil {
		a.look(name, plugged)
	}
	for {
		n, err := f.Read(buf)
		if err != nil {
			return err
		}
		rtMessages(buf[:n], func(kind uint16, _ int, m []byte) bool {
			if kind == unix.RTM_NEWLINK && len(m) >= unix.SizeofIfInfomsg {
				// struct ifinfomsg: family, type (16 bits), index (32), flags (32), change (32)
				a.news(int32(binary.NativeEndian.Uint32(m[4:])), binary.NativeEndian.Uint32(m[8:]), plugged)
			}
			return true
		})
	}
}

// look treats a device's present state as news.
func (a *announcer) look(name string, plugged map[int32]bool) {
	d, err := openDevice(name)
	if err != nil {
		return
	}
	defer d.close()
	index, err := d.index()
	if err != nil {
		return
	}
	flags, err := d.flags()
	if err != nil {
		return
	}
	if flags&unix.IFF_RUNNING != 0 {
		flags |= unix.IFF_LOWER_UP // for which there is no room in an ioctl
	}
	a.news(int32(index), flags, plugged)
}

func (a *announcer) news(index int32, flags uint32, plugged map[int32]bool) {
	const on = unix.IFF_UP | unix.IFF_LOWER_UP
	was := plugged[index]
	plugged[index] = flags&on == on
	if flags&on != on || flags&unix.IFF_LOOPBACK != 0 || (was && !a.again.Load()) {
		return
	}
	name, err := nic()
	if err != nil {
		return
	}
	if own, err := indexOf(name); err != nil || own != int(index) { // a container's
		return
	}
	a.again.Store(false)
	if err := announceDevice(name, int(index)); err != nil {
		console("cannot announce the guest: %v", err)
	}
}

// announceDevice sends one ARP request for each of the device's own addresses (RFC 5227, "ARP announcement").
func announceDevice(name string, index int) error {
	d, err := openDevice(name)
	if err != nil {
		return err
	}
	defer d.close()
	mac, err := d.hardware() // what it is now, not when it was plugged in
	if err != nil {
		return err
	}
	own, err := d.addresses(index)
	if err != nil || len(own) == 0 {
		return err
	}
	// Protocol 0: it only sends.
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	for _, a := range own {
		to := unix.SockaddrLinklayer{Ifindex: index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
		if err := unix.Sendto(s, announcement(mac, a.IP), 0, &to); err != nil {
			return err
		}
	}
	return nil
}

// announcement is an Ethernet frame with an ARP request (RFC 826) for one's own address.
func announcement(mac net.HardwareAddr, ip net.IP) []byte {
	be := binary.BigEndian
	f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
	f = be.AppendUint16(f, unix.ETH_P_ARP)
	f = be.AppendUint16(f, 1) // Ethernet
	f = be.AppendUint16(f, unix.ETH_P_IP)
	f = append(f, 6, 4)
	f = be.AppendUint16(f, 1) // request
	f = append(f, mac...)
	f = append(f, ip.To4()...)
	f = append(f, 0, 0, 0, 0, 0, 0)
	f = append(f, ip.To4()...)
	return append(f, make([]byte, 60-len(f))...) // the least that Ethernet has
}
