package sieve

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

var (
	guest    = netip.MustParseAddr("10.0.2.15")
	resolver = netip.MustParseAddr("10.0.2.3")
	hostDNS  = netip.MustParseAddr("127.0.0.53")
)

func policy() *Policy {
	return &Policy{Guest: guest, Resolver: resolver, Look: func() Host {
		return Host{Addresses: map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true}, Resolver: hostDNS}
	}}
}

// frame makes an Ethernet frame with UDP or TCP and right checksums.
func frame(proto byte, src, dst string, from, to uint16) []byte {
	size := map[byte]int{protoUDP: 8, protoTCP: 20}[proto]
	l4 := make([]byte, size+5)
	copy(l4[size:], "hello")
	binary.BigEndian.PutUint16(l4, from)
	binary.BigEndian.PutUint16(l4[2:], to)
	if proto == protoUDP {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	} else {
		l4[12] = 5 << 4
	}
	ip := make([]byte, ipHeader)
	ip[0], ip[8], ip[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(l4)))
	copy(ip[ipSource:], netip.MustParseAddr(src).AsSlice())
	copy(ip[ipDest:], netip.MustParseAddr(dst).AsSlice())
	f := append(make([]byte, 12), 8, 0)
	f = append(append(f, ip...), l4...)
	p := packet(f[etherHeader:])
	binary.BigEndian.PutUint16(p[ipSum:], checksum(p[:ipHeader]))
	if sum := checksum(pseudo(p)); proto == protoUDP {
		binary.BigEndian.PutUint16(p[ipHeader+6:], sum)
	} else {
		binary.BigEndian.PutUint16(p[ipHeader+16:], sum)
	}
	return f
}

func pseudo(p packet) []byte {
	b := append([]byte{}, p[ipSource:ipHeader]...)
	b = append(b, 0, p[9], 0, byte(len(p)-ipHeader))
	return append(b, p[ipHeader:]...)
}

func checksum(b []byte) uint16 {
	if len(b)%2 == 1 {
		b = append(append([]byte{}, b...), 0)
	}
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

func TestWhatAGuestMaySend(t *testing.T) {
	udp := func(src, dst string) []byte { return frame(protoUDP, src, dst, 1000, 80) }
	fragment := udp("10.0.2.15", "127.0.0.1")
	fragment[etherHeader+6] = 0x20
	vlan := append(append(make([]byte, 12), 0x81, 0, 0, 1), udp("10.0.2.15", "127.0.0.1")[12:]...)
	v6 := append(make([]byte, 12), 0x86, 0xdd, 0x60)
	version := udp("10.0.2.15", "198.51.100.1")
	version[etherHeader] = 0x65
	resolverFragment := frame(protoUDP, "10.0.2.15", "10.0.2.3", 1000, 53)
	resolverFragment[etherHeader+7] = 1
	for name, c := range map[string]struct {
		frame []byte
		want  bool
	}{
		"beyond":                  {udp("10.0.2.15", "198.51.100.1"), true},
		"TCP beyond":              {frame(protoTCP, "10.0.2.15", "198.51.100.1", 1, 2), true},
		"ARP":                     {append(make([]byte, 12), 8, 6), true},
		"loopback":                {udp("10.0.2.15", "127.0.0.1"), false},
		"all of loopback":         {udp("10.0.2.15", "127.255.255.254"), false},
		"unspecified":             {udp("10.0.2.15", "0.0.0.0"), false},
		"this network":            {udp("10.0.2.15", "0.1.2.3"), false},
		"metadata":                {udp("10.0.2.15", "169.254.169.254"), false},
		"broadcast":               {udp("10.0.2.15", "255.255.255.255"), false},
		"multicast":               {udp("10.0.2.15", "224.0.0.251"), false},
		"the host's address":      {udp("10.0.2.15", "192.0.2.1"), false},
		"a neighbour of the host": {udp("10.0.2.15", "192.0.2.2"), true},
		"forged source":           {udp("10.0.2.16", "198.51.100.1"), false},
		"loopback as source":      {udp("127.0.0.1", "198.51.100.1"), false},
		"fragment":                {fragment, false},
		"VLAN":                    {vlan, false},
		"IPv6":                    {v6, false},
		"no IPv4 after all":       {version, false},
		"short":                   {make([]byte, 13), false},
		"half a header":           {udp("10.0.2.15", "198.51.100.1")[:30], false},
		"empty":                   {nil, false},
		"the resolver":            {frame(protoUDP, "10.0.2.15", "10.0.2.3", 1000, 53), true},
		"the resolver, TCP":       {frame(protoTCP, "10.0.2.15", "10.0.2.3", 1000, 53), true},
		"the resolver, fragment":  {resolverFragment, false},
		"another port of it":      {udp("10.0.2.15", "10.0.2.3"), false},
	} {
		if got := policy().Out(c.frame); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestTheResolverIsTheHosts(t *testing.T) {
	for _, proto := range []byte{protoUDP, protoTCP} {
		p := policy()
		q := frame(proto, "10.0.2.15", "10.0.2.3", 1000, 53)
		if !p.Out(q) {
			t.Fatal("a question is not let out")
		}
		check(t, q, "10.0.2.15", hostDNS.String())
		// passt gives loopback's datagrams the gateway's address.
		for _, from := range []string{"127.0.0.53", "10.0.2.2"} {
			a := frame(proto, from, "10.0.2.15", 53, 1000)
			if !p.In(a) {
				t.Fatal("an answer is not let in")
			}
			check(t, a, "10.0.2.3", "10.0.2.15")
		}
		// Who asks another server itself gets the answer from there.
		p.Out(frame(proto, "10.0.2.15", "198.51.100.53", 1000, 53))
		a := frame(proto, "198.51.100.53", "10.0.2.15", 53, 1000)
		p.In(a)
		check(t, a, "198.51.100.53", "10.0.2.15")
	}
	none := policy()
	none.Look = func() Host { return Host{} }
	if none.Out(frame(protoUDP, "10.0.2.15", "10.0.2.3", 1000, 53)) {
		t.Error("a question goes out though the host has no resolver")
	}
}

// check wants these addresses and right checksums.
func check(t *testing.T, f []byte, src, dst string) {
	t.Helper()
	p := packet(f[etherHeader:])
	if p.source().String() != src || p.dest().String() != dst {
		t.Errorf("%s to %s, want %s to %s", p.source(), p.dest(), src, dst)
	}
	if checksum(p[:ipHeader]) != 0 || checksum(pseudo(p)) != 0 {
		t.Errorf("checksums %x %x", checksum(p[:ipHeader]), checksum(pseudo(p)))
	}
}

func TestUDPWithoutChecksumStaysSo(t *testing.T) {
	f := frame(protoUDP, "10.0.2.15", "10.0.2.3", 1000, 53)
	copy(f[etherHeader+ipHeader+6:], []byte{0, 0})
	policy().Out(f)
	if got := f[etherHeader+ipHeader+6 : etherHeader+ipHeader+8]; got[0]|got[1] != 0 {
		t.Errorf("checksum %x", got)
	}
}

func stream(frames ...[]byte) (out []byte) {
	for _, f := range frames {
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(f))), f...)
	}
	return out
}

func TestRunCopiesInOrderAndEnds(t *testing.T) {
	vmm, vmmEnd := net.Pipe()
	passt, passtEnd := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Run(vmmEnd, passtEnd, policy()) }()
	good1, good2 := frame(protoTCP, "10.0.2.15", "198.51.100.1", 1, 2), frame(protoUDP, "10.0.2.15", "198.51.100.1", 3, 4)
	bad := frame(protoUDP, "10.0.2.15", "127.0.0.1", 1, 2)
	all := stream(good1, bad, bad, good2, bad, good1)
	go func() { // in pieces that respect no frame
		for len(all) > 0 {
			n := min(7, len(all))
			if _, err := vmm.Write(all[:n]); err != nil {
				return
			}
			all = all[n:]
		}
	}()
	want := stream(good1, good2, good1)
	got := make([]byte, len(want))
	_ = passt.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(passt, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%v\n%x, want\n%x", err, got, want)
	}
	go func() { _, _ = passt.Write(stream(good2)) }()
	back := make([]byte, len(stream(good2)))
	_ = vmm.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(vmm, back); err != nil || !bytes.Equal(back, stream(good2)) {
		t.Fatalf("%v, %x", err, back)
	}
	_ = vmm.Close()
	if err := <-ended; err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	if _, err := passt.Read(make([]byte, 1)); err == nil {
		t.Error("passt's side is still open")
	}
}

func TestFrameThatIsTooLong(t *testing.T) {
	if _, _, err := squeeze([]byte{0, 2, 0, 0, 1}, policy().Out); err == nil {
		t.Error("a frame of 128 KiB is taken")
	}
}

// FuzzSqueeze: whatever a VMM sends, only whole frames that the policy allows come out, in order.
func FuzzSqueeze(f *testing.F) {
	f.Add(stream(frame(protoUDP, "10.0.2.15", "10.0.2.3", 1000, 53), frame(protoTCP, "10.0.2.15", "127.0.0.1", 1, 2)))
	f.Add(stream(frame(protoTCP, "10.0.2.15", "198.51.100.1", 1, 2))[:20])
	f.Add([]byte{0, 0, 0, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, in []byte) {
		buf := bytes.Clone(in)
		p := policy()
		used, out, err := squeeze(buf, p.Out)
		if err != nil {
			return
		}
		if out > used || used > len(in) {
			t.Fatalf("used %d, out %d of %d", used, out, len(in))
		}
		for rest := buf[:out]; len(rest) > 0; {
			if len(rest) < 4 {
				t.Fatal("half a length")
			}
			size := binary.BigEndian.Uint32(rest)
			fr := rest[4 : 4+size]
			if ip, ok := ipv4(fr); ok && ip.dest() != hostDNS && (forbidden(ip.dest()) || ip.source() != guest) {
				t.Fatalf("%x got out", fr)
			}
			rest = rest[4+size:]
		}
		p.In(bytes.Clone(in))
	})
}

func BenchmarkSqueeze(b *testing.B) {
	in := stream(frame(protoTCP, "10.0.2.15", "198.51.100.1", 1, 2), append(frame(protoTCP, "10.0.2.15", "198.51.100.1", 1, 2), make([]byte, 60000)...))
	buf := make([]byte, len(in))
	p := policy()
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		copy(buf, in)
		if _, _, err := squeeze(buf, p.Out); err != nil {
			b.Fatal(err)
		}
	}
}
