package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// announcer tells the network who this guest is, each time that its cable is plugged in: a clone or a fork has
// set its addresses by then, and nobody else says which port they are at now.
type announcer struct {
	// again: the next word of a device that is plugged in counts as news.
	again atomic.Bool
}

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

// watch returns when messages were lost, or ctx ends.
func (a *announcer) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	updates := make(chan netlink.LinkUpdate, 16)
	var failed error // set before updates is closed
	err := netlink.LinkSubscribeWithOptions(updates, ctx.Done(), netlink.LinkSubscribeOptions{
		ErrorCallback: func(err error) { failed = err },
	})
	if err != nil {
		return err
	}
	plugged := map[int32]bool{}
	for u := range updates {
		on := u.IfInfomsg.Flags&unix.IFF_UP != 0 && u.IfInfomsg.Flags&unix.IFF_LOWER_UP != 0
		if on && u.Type() == "device" && u.Attrs().Flags&net.FlagLoopback == 0 && (!plugged[u.Index] || a.again.Swap(false)) {
			if err := announceLink(int(u.Index)); err != nil {
				console("%v", err)
			}
		}
		plugged[u.Index] = on
	}
	return failed
}

// announceLink sends one ARP request for each of the device's own addresses (RFC 5227, "ARP announcement").
func announceLink(index int) error {
	link, err := netlink.LinkByIndex(index) // what it is now, not when it was plugged in
	if err != nil {
		return fmt.Errorf("cannot announce the guest: %w", err)
	}
	mac := link.Attrs().HardwareAddr
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(mac) != 6 || len(addrs) == 0 {
		return err
	}
	// Protocol 0: it only sends.
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot announce the guest: %w", err)
	}
	defer unix.Close(s)
	for _, a := range addrs {
		to := unix.SockaddrLinklayer{Ifindex: index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
		if err := unix.Sendto(s, announcement(mac, a.IP), 0, &to); err != nil {
			return fmt.Errorf("cannot announce the guest: %w", err)
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
