package local

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
)

// mapPrefix begins the names, and the UUIDs, of mapped devices of ours.
const mapPrefix = "banger-"

func (b blocks) mapUUID(name string) string { return fmt.Sprintf("banger:%d:%s", b.owner, name) }

func checkMapName(name string) error {
	bad := strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.'
	})
	if bad >= 0 || !strings.HasPrefix(name, mapPrefix) || len(name) > 100 {
		return api.Errorf(api.CodeInvalid, "%q is no name for a mapped device of banger", name)
	}
	return nil
}

// CanMap asks for the targets, which loads their modules.
func (blocks) CanMap() error {
	if os.Geteuid() != 0 {
		return api.Errorf(api.CodeDenied, "dm-snapshot disks need root").WithHint("set disk_driver = \"qcow2\" in config.toml")
	}
	if _, err := dm(dmVersion, dmCall{}); err != nil {
		return api.Errorf(api.CodeUnsupported, "this kernel has no device-mapper: %w", err).WithHint("modprobe dm-mod")
	}
	for _, kind := range []host.MapKind{host.MapSnapshot, host.MapLinear, host.MapZero} {
		if _, err := dm(dmTargetVersion, dmCall{name: string(kind)}); err != nil {
			return api.Errorf(api.CodeUnsupported, "this kernel's device-mapper has no %s target: %w", kind, err).WithHint("modprobe dm-%s", kind)
		}
	}
	if _, err := os.Stat(loopControl); err != nil {
		return api.Errorf(api.CodeUnsupported, "this kernel has no loop devices: %w", err).WithHint("modprobe loop")
	}
	return nil
}

// CreateMapped makes the device and its node.
func (b blocks) CreateMapped(name string) (host.Mapped, error) {
	if err := checkMapName(name); err != nil {
		return host.Mapped{}, err
	}
	c, err := dm(dmCreate, dmCall{name: name, uuid: b.mapUUID(name)})
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
		return host.Mapped{}, api.Errorf(api.CodeConflict, "there is a device %s: %w", name, err)
	} else if err != nil {
		return host.Mapped{}, fmt.Errorf("cannot make device %s: %w", name, err)
	}
	m := host.Mapped{Name: name, Device: c.dev}
	m.Node, err = node(fmt.Sprint("dm-", c.dev.Minor), c.dev)
	if err != nil {
		return host.Mapped{}, errors.Join(err, b.RemoveMapped(name))
	}
	return m, nil
}

// our looks whether a device is there and ours.
func (b blocks) our(name string) (dmCall, error) {
	if err := checkMapName(name); err != nil {
		return dmCall{}, err
	}
	c, err := dm(dmStatus, dmCall{name: name})
	switch {
	case errors.Is(err, unix.ENXIO):
		err = api.Errorf(api.CodeNotFound, "there is no device %s", name)
	case err != nil:
		err = fmt.Errorf("cannot find device %s: %w", name, err)
	case c.uuid != b.mapUUID(name):
		err = api.Errorf(api.CodeConflict, "device %s is not banger's", name)
	}
	return c, err
}

// act does something with a device of ours.
func (b blocks) act(what, name string, command dmCommand, c dmCall) error {
	if _, err := b.our(name); err != nil {
		return err
	}
	c.name = name
	if _, err := dm(command, c); err != nil {
		return fmt.Errorf("cannot %s device %s: %w", what, name, err)
	}
	return nil
}

// LoadMapped lets the table name devices of ours only.
func (b blocks) LoadMapped(name string, table []host.MapTarget, readOnly bool) error {
	for _, t := range table {
		for _, d := range []host.Device{t.Origin, t.COW} {
			if err := b.may(d); err != nil {
				return fmt.Errorf("cannot load the table of device %s: %w", name, err)
			}
		}
	}
	data, err := encodeTable(table)
	if err != nil {
		return err
	}
	c := dmCall{targets: len(table), data: data}
	if readOnly {
		c.flags = dmReadOnly
	}
	for begin := time.Now(); ; time.Sleep(loadPause) {
		err := b.act("load the table of", name, dmTableLoad, c)
		if !errors.Is(err, unix.ENOMEM) || time.Since(begin) > loadTime {
			return err
		}
	}
}

// A snapshot's table makes a slab cache in the kernel to read the store with, and ends it again. Since Linux 6.0 the name of
// one that ends stays in /sys/kernel/slab for a moment (mm/slab_common.c: the kobject goes after the lock), and another
// load that makes one of the same shape meanwhile fails as if there were no memory ("snapshot: Failed to read snapshot
// metadata (-ENOMEM)", seen with two forks at once). A host that really has none says so after loadTime.
const (
	loadPause = 10 * time.Millisecond
	loadTime  = 3 * time.Second
)

// may refuses a device that is not ours; the zero Device is none.
func (b blocks) may(d host.Device) error {
	if d == (host.Device{}) {
		return nil
	}
	if d.Major == loopMajor {
		f, _, err := b.loop(d)
		if err != nil {
			return err
		}
		return f.Close()
	}
	c, err := dm(dmStatus, dmCall{dev: d})
	if err != nil {
		return fmt.Errorf("cannot find device %s: %w", d, err)
	}
	if checkMapName(c.name) != nil || c.uuid != b.mapUUID(c.name) {
		return api.Errorf(api.CodeConflict, "device %s is not banger's", d)
	}
	return nil
}

// IsMapped reports whether a number is that of a mapped device of ours.
func (b blocks) IsMapped(d host.Device) bool {
	return d != (host.Device{}) && d.Major != loopMajor && b.may(d) == nil
}

// ClearMapped is for a switch that is not to be.
func (b blocks) ClearMapped(name string) error {
	return b.act("clear the waiting table of", name, dmTableClear, dmCall{})
}

// SuspendMapped does not freeze file systems: none is mounted here.
func (b blocks) SuspendMapped(name string) error {
	return b.act("suspend", name, dmSuspend, dmCall{flags: dmSuspended | dmSkipLockFS, event: dmQuiet})
}

// ResumeMapped is the same call without the flag.
func (b blocks) ResumeMapped(name string) error {
	return b.act("resume", name, dmSuspend, dmCall{event: dmQuiet})
}

// RemoveMapped takes the node away, too, where nobody else does.
func (b blocks) RemoveMapped(name string) error {
	c, err := b.our(name)
	if api.CodeOf(err) == api.CodeNotFound {
		return nil
	} else if err != nil {
		return err
	}
	_, err = dm(dmRemove, dmCall{name: name, event: dmQuiet})
	switch {
	case errors.Is(err, unix.ENXIO):
		return nil
	case errors.Is(err, unix.EBUSY):
		return api.Errorf(api.CodeBusy, "device %s is in use: %w", name, err)
	case err != nil:
		return fmt.Errorf("cannot remove device %s: %w", name, err)
	}
	path := fmt.Sprint("/dev/dm-", c.dev.Minor)
	if _, err := os.Stat("/sys/dev/block/" + c.dev.String()); err == nil {
		return nil // another one has the number by now
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove %s: %w", path, err)
	}
	return nil
}

// Mapped asks for the device, its table and its state.
func (b blocks) Mapped(name string) (host.Mapped, error) {
	c, err := b.our(name)
	if err != nil {
		return host.Mapped{}, err
	}
	m := host.Mapped{
		Name: name, Device: c.dev, Node: fmt.Sprint("/dev/dm-", c.dev.Minor), Open: c.open,
		Suspended: c.flags&dmSuspended != 0, Waiting: c.flags&dmInactivePresent != 0, ReadOnly: c.flags&dmReadOnly != 0,
	}
	if c.flags&dmActivePresent == 0 {
		return m, nil
	}
	lines, err := tableStatus(name, dmStatusTable)
	if err != nil {
		return host.Mapped{}, err
	}
	for _, l := range lines {
		t, err := l.target()
		if err != nil {
			return host.Mapped{}, fmt.Errorf("cannot read the table of device %s: %w", name, err)
		}
		m.Table = append(m.Table, t)
	}
	if lines, err = tableStatus(name, 0); err != nil {
		return host.Mapped{}, err
	}
	for _, l := range lines {
		if l.kind == string(host.MapSnapshot) {
			m.UsedSectors, m.Broken = snapshotState(l.params)
		}
	}
	return m, nil
}

func tableStatus(name string, flag dmFlags) ([]dmLine, error) {
	c, err := dm(dmTableStatus, dmCall{name: name, flags: dmNoFlush | flag})
	if errors.Is(err, unix.ENXIO) {
		return nil, api.Errorf(api.CodeNotFound, "there is no device %s", name)
	} else if err != nil {
		return nil, fmt.Errorf("cannot read the table of device %s: %w", name, err)
	}
	return decodeLines(c)
}

// snapshotState reads a snapshot's status: "used/total metadata", in sectors, or a word.
func snapshotState(params string) (used int64, broken string) {
	switch params {
	case "Invalid":
		return 0, "the host could not keep a write"
	case "Overflow":
		return 0, "its file on the host is full"
	}
	var total, metadata int64
	if n, err := fmt.Sscanf(params, "%d/%d %d", &used, &total, &metadata); err != nil || n != 3 {
		return 0, "device-mapper says: " + params
	}
	return used, ""
}

// MappedNames lists by name; each verb looks at the mark itself.
func (b blocks) MappedNames(prefix string) ([]string, error) {
	if !strings.HasPrefix(prefix, mapPrefix) {
		return nil, api.Errorf(api.CodeInvalid, "%q begins no name of a mapped device of banger", prefix)
	}
	c, err := dm(dmListDevices, dmCall{})
	if err != nil {
		return nil, fmt.Errorf("cannot list mapped devices: %w", err)
	}
	if c.flags&dmBufferFull != 0 || len(c.data) == 0 { // some kernels find no room large enough for a list of none
		return nil, nil
	}
	names, err := decodeNames(c.data)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, prefix) })
	slices.Sort(names)
	return names, nil
}

// decodeNames reads struct dm_name_list: device, offset of the next from this one, name.
func decodeNames(data []byte) ([]string, error) {
	const head = 12
	ne := binary.NativeEndian
	var names []string
	for len(data) >= head {
		if ne.Uint64(data) == 0 {
			return names, nil // there is none at all
		}
		names = append(names, unix.ByteSliceToString(data[head:]))
		next := ne.Uint32(data[8:])
		if next == 0 {
			return names, nil
		}
		if next < head || int64(next) > int64(len(data)) {
			break
		}
		data = data[next:]
	}
	return nil, errors.New("device-mapper's answer ends within a list")
}

// AwaitBroken looks again at each of device-mapper's events.
func (b blocks) AwaitBroken(ctx context.Context, name string) (m host.Mapped, err error) {
	fd, err := unix.Open(dmControl, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return m, fmt.Errorf("cannot reach device-mapper: %w", err)
	}
	f := os.NewFile(uintptr(fd), dmControl) // that it does not block makes the runtime wait for it
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return m, err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var failure error
	err = raw.Read(func(fd uintptr) bool {
		// In this order: an event after it has been asked for is not missed.
		if failure = (&dmCall{}).do(int(fd), dmArmPoll); failure != nil {
			return true
		}
		m, failure = b.Mapped(name)
		return failure != nil || m.Broken != ""
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return m, context.Cause(ctx)
	}
	return m, errors.Join(err, failure)
}
