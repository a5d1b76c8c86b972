package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/host"
)

// tapAlias is the note on a tap of ours. It is there before the device is made to
// outlive its descriptor, so that a crash leaves none without it.
func tapAlias(bridge string) string { return "banger tap of " + bridge }

// OpenTap makes or takes up the tap. One that another process holds open is CodeBusy.
func (n networks) OpenTap(_ context.Context, t host.Tap) (*os.File, error) {
	if len(t.Name) == 0 || len(t.Name) >= unix.IFNAMSIZ {
		return nil, api.Errorf(api.CodeInvalid, "%q is no name for a network device", t.Name)
	}
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", tunDevice, err)
	}
	if err := n.setUpTap(fd, t); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	// Only now: the runtime polls it, and a tun descriptor cannot be polled before it has a device.
	return os.NewFile(uintptr(fd), t.Name), nil
}

// SetTapUp changes the link's state; who has opened the tap keeps it.
func (networks) SetTapUp(name string, up bool) error {
	link, err := findLink(name)
	if err == nil && (link == nil || !ourTap(link)) {
		return api.Errorf(api.CodeNotFound, "there is no tap %s of banger's", name)
	}
	if err == nil && up {
		err = netlink.LinkSetUp(link)
	} else if err == nil {
		err = netlink.LinkSetDown(link)
	}
	if err != nil {
		return fmt.Errorf("cannot switch tap %s: %w", name, err)
	}
	return nil
}

func (n networks) setUpTap(fd int, t host.Tap) error {
	if l, err := findLink(t.Name); err != nil {
		return err
	} else if l != nil && !ourTap(l) {
		return api.Errorf(api.CodeConflict, "network device %s exists and is not banger's", t.Name)
	}
	req, err := unix.NewIfreq(t.Name)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); errors.Is(err, unix.EBUSY) {
		return api.Errorf(api.CodeBusy, "tap %s is in use: %w", t.Name, err)
	} else if err != nil {
		return fmt.Errorf("cannot make tap %s: %w", t.Name, err)
	}
	link, err := netlink.LinkByName(t.Name)
	if err != nil {
		return fmt.Errorf("cannot find tap %s just made: %w", t.Name, err)
	}
	if err := netlink.LinkSetAlias(link, tapAlias(t.Bridge)); err != nil {
		return fmt.Errorf("cannot mark tap %s: %w", t.Name, err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("cannot keep tap %s: %w", t.Name, err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, t.Owner); err != nil {
		return fmt.Errorf("cannot set the owner of tap %s: %w", t.Name, err)
	}
	if err := n.SetSysctl("net/ipv6/conf/"+t.Name+"/disable_ipv6", "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// The host has no business on the tap itself: while it is in no bridge it answers nobody's ARP.
	err = errors.Join(netlink.LinkSetNoMaster(link), netlink.LinkSetARPOff(link), netlink.LinkSetMTU(link, t.MTU), netlink.LinkSetUp(link))
	if err != nil {
		return fmt.Errorf("cannot set up tap %s: %w", t.Name, err)
	}
	return nil
}
