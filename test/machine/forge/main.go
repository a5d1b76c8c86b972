// Program forge sends one Ethernet frame as it is told, lies included: the tests run it in a
// guest to see that a forged frame arrives nowhere.
//
//	forge DEVICE DST-MAC SRC-MAC SRC-IP DST-IP WORD
//
// The frame is a UDP packet from port 9 to port 9 that carries WORD, which the tests look for.
package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"syscall"
)

func main() {
	if err := send(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "forge:", err)
		os.Exit(1)
	}
}

func send(args []string) error {
	if len(args) != 6 {
		return fmt.Errorf("want DEVICE DST-MAC SRC-MAC SRC-IP DST-IP WORD")
	}
	dev, err := net.InterfaceByName(args[0])
	if err != nil {
		return err
	}
	dst, err := net.ParseMAC(args[1])
	if err != nil {
		return err
	}
	src, err := net.ParseMAC(args[2])
	if err != nil {
		return err
	}
	packet, err := udp(net.ParseIP(args[3]).To4(), net.ParseIP(args[4]).To4(), args[5])
	if err != nil {
		return err
	}
	frame := append(append(append([]byte{}, dst...), src...), 0x08, 0x00) // IPv4
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	return syscall.Sendto(fd, append(frame, packet...), 0, &syscall.SockaddrLinklayer{Ifindex: dev.Index, Halen: 6})
}

// udp makes an IPv4 packet (RFC 791, RFC 768); a UDP checksum of 0 means none.
func udp(src, dst net.IP, word string) ([]byte, error) {
	if src == nil || dst == nil {
		return nil, fmt.Errorf("want IPv4 addresses")
	}
	p := make([]byte, 28, 28+len(word))
	p[0], p[8], p[9] = 0x45, 64, syscall.IPPROTO_UDP
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(word)))
	copy(p[12:], src)
	copy(p[16:], dst)
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum))
	binary.BigEndian.PutUint16(p[20:], 9)
	binary.BigEndian.PutUint16(p[22:], 9)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(word)))
	return append(p, word...), nil
}
