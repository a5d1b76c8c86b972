package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"banger/internal/host"
)

// What x/sys lacks of the kernel's linux/netfilter/nfnetlink.h.
const (
	batchBegin = 0x10 // NFNL_MSG_BATCH_BEGIN
	batchEnd   = 0x11 // NFNL_MSG_BATCH_END
)

// answerTime bounds the wait for the kernel's answer, in seconds.
const answerTime = 5

// changeGuests makes the sets of the rules that are there hold the guests of those that are wanted, in one transaction: all
// or nothing. It fails where the sets are not as is says.
func changeGuests(is, wanted host.Rules) error {
	table := wanted.Table()
	b := batch{}
	b.frame(batchBegin)
	b.each(is.Guests, wanted.Guests, unix.NFT_MSG_DELSETELEM, 0, table)
	b.each(wanted.Guests, is.Guests, unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, table)
	b.frame(batchEnd)
	if b.answers == 0 {
		return nil
	}
	return b.send()
}

// batch is a transaction of the packet filter: netlink messages, see nfnetlink.h and nf_tables.h.
type batch struct {
	bytes []byte
	// answers is how many the kernel will give.
	answers int
}

// each adds a message per set for the guests that are not among the others.
func (b *batch) each(guests, others []host.Pin, message, flags uint16, table string) {
	for _, g := range guests {
		if slices.ContainsFunc(others, func(o host.Pin) bool { return o.Tap == g.Tap && o.IP == g.IP && slices.Equal(o.MAC, g.MAC) }) {
			continue
		}
		tap := make([]byte, unix.IFNAMSIZ)
		copy(tap, g.Tap)
		mac := append(slices.Clone(g.MAC), 0, 0) // each part of a key fills registers of four bytes
		ip := g.IP.AsSlice()
		for _, e := range []struct {
			family uint8
			set    string
			key    []byte
		}{
			{unix.NFPROTO_INET, "taps", tap},
			{unix.NFPROTO_BRIDGE, "taps", tap},
			{unix.NFPROTO_BRIDGE, "macs", slices.Concat(tap, mac)},
			{unix.NFPROTO_BRIDGE, "addresses", slices.Concat(tap, ip)},
			{unix.NFPROTO_BRIDGE, "arps", slices.Concat(tap, mac, ip)},
		} {
			b.element(message, flags, e.family, table, e.set, e.key)
		}
	}
}

// element adds one message.
func (b *batch) element(message, flags uint16, family uint8, table, set string, key []byte) {
	elements := nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, nil)
	elements.AddRtAttr(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, nil).AddRtAttr(unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, nil).AddRtAttr(unix.NFTA_DATA_VALUE, key)
	body := slices.Concat(
		[]byte{family, unix.NFNETLINK_V0, 0, 0},
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(table)).Serialize(),
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(set)).Serialize(),
		elements.Serialize(),
	)
	b.add(unix.NFNL_SUBSYS_NFTABLES<<8|message, unix.NLM_F_ACK|flags, body)
	b.answers++
}

// frame adds the message before all others, or behind them.
func (b *batch) frame(message uint16) {
	b.add(message, 0, binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, unix.NFNL_SUBSYS_NFTABLES))
}

func (b *batch) add(message, flags uint16, body []byte) {
	h := binary.NativeEndian
	b.bytes = h.AppendUint32(b.bytes, uint32(unix.NLMSG_HDRLEN+len(body))) //nolint:gosec // some hundred bytes
	b.bytes = h.AppendUint16(b.bytes, message)
	b.bytes = h.AppendUint16(b.bytes, unix.NLM_F_REQUEST|flags)
	b.bytes = append(b.bytes, make([]byte, 8)...) // sequence and port: it is the only conversation of its socket
	b.bytes = append(b.bytes, body...)            // of whole attributes, which end at multiples of four
}

// send has the kernel do it, and waits for all answers.
func (b *batch) send() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("cannot reach the packet filter: %w", err)
	}
	// Closing waits until the kernel has freed what went, long after nobody sees it any more.
	defer func() { go unix.Close(fd) }()
	if err := errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerTime}),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1), // answers do not repeat the question
		unix.Sendto(fd, b.bytes, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
	); err != nil {
		return fmt.Errorf("cannot reach the packet filter: %w", err)
	}
	buf := make([]byte, 1<<16)
	for answered := 0; answered < b.answers; {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return fmt.Errorf("the packet filter does not answer: %w", err)
		}
		for at := 0; at+unix.NLMSG_HDRLEN+4 <= n; answered++ {
			code := int32(binary.NativeEndian.Uint32(buf[at+unix.NLMSG_HDRLEN:])) //nolint:gosec // it is one
			if kind := binary.NativeEndian.Uint16(buf[at+4:]); kind != unix.NLMSG_ERROR || code != 0 {
				return fmt.Errorf("the packet filter refuses: %w", unix.Errno(-code))
			}
			at += (int(binary.NativeEndian.Uint32(buf[at:])) + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
		}
	}
	return nil
}
