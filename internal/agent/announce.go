package agent

import (
	"encoding/binary"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// announceAfter lets what a clone was made for go first: all that it does for the first time takes long under
// emulation. Until then who looks for its address asks for it (ARP), and only who knew another machine under that
// address has to wait.
const announceAfter = 500 * time.Millisecond

// announceWithin is how long the host may take to plug the cable in, which it does when it has heard who the guest is.
const announceWithin = time.Minute

// announce tells the network, soon, who this guest is: a clone or a fork has its addresses by now, and nobody else says which port
// they are at. Nothing in the guest listens for the cable: the kernel would wake who does at every change of every device, which
// takes a new clone longer than all else that it does about its network. It is called with change held.
func (s *system) announce(ip net.IP) {
	if s.announcing != nil {
		s.announcing.Stop() // of the one that this is a copy of, or for another address
	}
	s.announceIn(announceAfter, ip)
}

func (s *system) announceIn(wait time.Duration, ip net.IP) {
	var own *time.Timer
	own = time.AfterFunc(wait, func() {
		s.change.Lock()
		defer s.change.Unlock()
		if s.announcing != own || s.nic == nil { // it has become another meanwhile
			return
		}
		plugged, err := s.nic.say(ip)
		switch {
		case err != nil:
			console("cannot announce the guest: %v", err)
		case !plugged && 2*wait <= announceWithin:
			s.announceIn(2*wait, ip)
		}
	})
	s.announcing = own
}

// say sends one ARP request for an address of the device's own (RFC 5227, "ARP announcement"), if its cable is plugged in.
func (d *netDevice) say(ip net.IP) (plugged bool, err error) {
	flags, err := d.flags()
	if err != nil || flags&unix.IFF_RUNNING == 0 {
		return false, err
	}
	index, err := d.index()
	if err != nil {
		return true, err
	}
	mac, err := d.hardware() // what it is now
	if err != nil {
		return true, err
	}
	if err := d.openMouth(); err != nil {
		return true, err
	}
	to := unix.SockaddrLinklayer{Ifindex: index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	return true, unix.Sendto(d.mouth, announcement(mac, ip), 0, &to)
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
