package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
)

// The interface of device-mapper, after linux/dm-ioctl.h, version 4: one structure for all calls, with data behind it.
const (
	dmControl = "/dev/mapper/control"

	dmHeader    = 312 // struct dm_ioctl
	dmTarget    = 40  // struct dm_target_spec
	dmMaxBuffer = 1 << 20

	dmAtDataSize  = 12
	dmAtDataStart = 16
	dmAtTargets   = 20
	dmAtOpen      = 24
	dmAtFlags     = 28
	dmAtEvent     = 32
	dmAtDev       = 40
	dmAtName      = 48
	dmNameLen     = 128
	dmAtUUID      = dmAtName + dmNameLen
	dmUUIDLen     = 129
)

type dmCommand uint32

const (
	dmVersion       dmCommand = 0
	dmListDevices   dmCommand = 2
	dmCreate        dmCommand = 3
	dmRemove        dmCommand = 4
	dmSuspend       dmCommand = 6 // and resume
	dmStatus        dmCommand = 7
	dmTableLoad     dmCommand = 9
	dmTableClear    dmCommand = 10
	dmTableStatus   dmCommand = 12
	dmArmPoll       dmCommand = 16
	dmTargetVersion dmCommand = 17
)

type dmFlags uint32

const (
	dmReadOnly        dmFlags = 1 << 0
	dmSuspended       dmFlags = 1 << 1
	dmStatusTable     dmFlags = 1 << 4
	dmActivePresent   dmFlags = 1 << 5
	dmInactivePresent dmFlags = 1 << 6
	dmBufferFull      dmFlags = 1 << 8
	dmSkipLockFS      dmFlags = 1 << 10
	dmNoFlush         dmFlags = 1 << 11
)

// dmQuiet, in an event number, tells udev's rules for device-mapper that nobody waits for them and that they shall
// leave the device alone: no symlinks and no probing of what a guest has written. (The flags of libdevmapper's cookies:
// DISABLE_SUBSYSTEM_RULES, DISABLE_DISK_RULES, DISABLE_OTHER_RULES, PRIMARY_SOURCE.)
const dmQuiet = (0x02 | 0x04 | 0x08 | 0x40) << 16

// dmCall is a call and its answer.
type dmCall struct {
	name, uuid string
	dev        host.Device
	flags      dmFlags
	event      uint32
	open       int
	targets    int
	data       []byte
}

// do makes the call on an open control device; c becomes the answer.
func (c *dmCall) do(fd int, command dmCommand) error {
	for size := max(16<<10, dmHeader+len(c.data)); ; size *= 4 {
		buf, err := c.encode(size)
		if err != nil {
			return err
		}
		// _IOWR(0xfd, command, struct dm_ioctl)
		request := uintptr(3<<30 | dmHeader<<16 | 0xfd<<8 | uint32(command))
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&buf[0]))); errno != 0 {
			return errno
		}
		answer, err := decodeDM(buf)
		if err != nil {
			return err
		}
		if answer.flags&dmBufferFull != 0 && size < dmMaxBuffer {
			continue
		}
		*c = answer
		return nil
	}
}

func (c *dmCall) encode(size int) ([]byte, error) {
	if len(c.name) >= dmNameLen || len(c.uuid) >= dmUUIDLen {
		return nil, api.Errorf(api.CodeInvalid, "the name of device %s is too long", c.name)
	}
	ne := binary.NativeEndian
	buf := make([]byte, size)
	ne.PutUint32(buf, 4) // version 4.0.0: what the kernel has must be of 4, and at least this
	ne.PutUint32(buf[dmAtDataSize:], uint32(size))
	ne.PutUint32(buf[dmAtDataStart:], dmHeader)
	ne.PutUint32(buf[dmAtTargets:], uint32(c.targets))
	ne.PutUint32(buf[dmAtFlags:], uint32(c.flags))
	ne.PutUint32(buf[dmAtEvent:], c.event)
	if c.dev != (host.Device{}) {
		ne.PutUint64(buf[dmAtDev:], unix.Mkdev(c.dev.Major, c.dev.Minor))
	}
	copy(buf[dmAtName:], c.name)
	copy(buf[dmAtUUID:], c.uuid)
	copy(buf[dmHeader:], c.data)
	return buf, nil
}

func decodeDM(buf []byte) (dmCall, error) {
	ne := binary.NativeEndian
	dev := ne.Uint64(buf[dmAtDev:])
	start, end := ne.Uint32(buf[dmAtDataStart:]), ne.Uint32(buf[dmAtDataSize:])
	if int64(start) > int64(len(buf)) || int64(end) > int64(len(buf)) {
		return dmCall{}, fmt.Errorf("device-mapper answers with data from %d to %d", start, end)
	}
	end = max(start, end) // without data it counts to the end of its structure, before the padding
	return dmCall{
		name:    unix.ByteSliceToString(buf[dmAtName : dmAtName+dmNameLen]),
		uuid:    unix.ByteSliceToString(buf[dmAtUUID : dmAtUUID+dmUUIDLen]),
		dev:     host.Device{Major: unix.Major(dev), Minor: unix.Minor(dev)},
		flags:   dmFlags(ne.Uint32(buf[dmAtFlags:])),
		event:   ne.Uint32(buf[dmAtEvent:]),
		open:    int(int32(ne.Uint32(buf[dmAtOpen:]))),
		targets: int(ne.Uint32(buf[dmAtTargets:])),
		data:    buf[start:end],
	}, nil
}

// openDM opens the door; the kernel loads its module then.
func openDM() (*os.File, error) {
	f, err := os.OpenFile(dmControl, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot reach device-mapper: %w", err)
	}
	return f, nil
}

// dm makes one call.
func dm(command dmCommand, c dmCall) (dmCall, error) {
	f, err := openDM()
	if err != nil {
		return dmCall{}, err
	}
	err = c.do(int(f.Fd()), command)
	return c, errors.Join(err, f.Close())
}

// encodeTable is a table as the kernel takes it: each target says where the next begins, from its own beginning.
func encodeTable(table []host.MapTarget) ([]byte, error) {
	ne := binary.NativeEndian
	var data []byte
	var at uint64
	for _, t := range table {
		var params string
		switch t.Kind {
		case host.MapZero:
		case host.MapLinear:
			params = t.Origin.String() + " 0"
		case host.MapSnapshot:
			params = fmt.Sprintf("%s %s P %d 1 discard_zeroes_cow", t.Origin, t.COW, snapshotSectors)
		default:
			return nil, api.Errorf(api.CodeInvalid, "a device of %q", t.Kind)
		}
		if t.Sectors <= 0 {
			return nil, api.Errorf(api.CodeInvalid, "a device with %d sectors of %s", t.Sectors, t.Kind)
		}
		next := (dmTarget + len(params) + 1 + 7) &^ 7
		spec := make([]byte, next)
		ne.PutUint64(spec, at)
		ne.PutUint64(spec[8:], uint64(t.Sectors))
		ne.PutUint32(spec[20:], uint32(next))
		copy(spec[24:], t.Kind)
		copy(spec[dmTarget:], params)
		data = append(data, spec...)
		at += uint64(t.Sectors)
	}
	return data, nil
}

// snapshotSectors is the size of a chunk.
const snapshotSectors = 8

// dmLine is a target as the kernel tells of it.
type dmLine struct {
	kind    string
	sectors int64
	params  string
}

// decodeLines reads an answer about a table: here each target says where the next begins from the first one's beginning.
func decodeLines(c dmCall) ([]dmLine, error) {
	ne := binary.NativeEndian
	var lines []dmLine
	for at := uint32(0); len(lines) < c.targets; {
		if uint64(at)+dmTarget > uint64(len(c.data)) {
			return nil, errors.New("device-mapper's answer ends within a table")
		}
		spec := c.data[at:]
		lines = append(lines, dmLine{
			kind: unix.ByteSliceToString(spec[24:dmTarget]), sectors: int64(ne.Uint64(spec[8:])), params: unix.ByteSliceToString(spec[dmTarget:]),
		})
		at = ne.Uint32(spec[20:])
	}
	return lines, nil
}

// target reads a line of a table.
func (l dmLine) target() (host.MapTarget, error) {
	t := host.MapTarget{Kind: host.MapKind(l.kind), Sectors: l.sectors}
	f := strings.Fields(l.params)
	var err error
	switch {
	case t.Kind == host.MapZero:
	case t.Kind == host.MapLinear && len(f) == 2:
		t.Origin, err = parseDevice(f[0])
	case t.Kind == host.MapSnapshot && len(f) >= 4:
		var e1, e2 error
		t.Origin, e1 = parseDevice(f[0])
		t.COW, e2 = parseDevice(f[1])
		err = errors.Join(e1, e2)
	default:
		err = fmt.Errorf("a mapped device of %s %s", l.kind, l.params)
	}
	return t, err
}

func parseDevice(s string) (host.Device, error) {
	major, minor, ok := strings.Cut(s, ":")
	a, e1 := strconv.ParseUint(major, 10, 32)
	b, e2 := strconv.ParseUint(minor, 10, 32)
	if !ok || e1 != nil || e2 != nil {
		return host.Device{}, fmt.Errorf("%q is no device number", s)
	}
	return host.Device{Major: uint32(a), Minor: uint32(b)}, nil
}
