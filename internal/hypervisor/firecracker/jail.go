package firecracker

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"banger/internal/host"
	"banger/internal/hypervisor"
)

// The names of things in a jail. A frozen state holds those of its drives and its socket, so they never change.
const (
	inKernel    = "kernel"
	inInitramfs = "initramfs"
	inLog       = "log"
	inMetrics   = "metrics"
	inControl   = "q"
	inVsock     = "a"
	inState     = "state"
	inMemory    = "memory"
	inDiff      = "diff"
)

// driveID is Firecracker's name for drive n, and the drive's name in the jail.
func driveID(n int) string { return "d" + strconv.Itoa(n) }

// nicID is Firecracker's name for the network device.
const nicID = "net0"

// guestCID is a guest's address on its own vsock, where there is nobody but its VMM.
const guestCID = 3

// jailOf is a machine's jail. Its name tells of the directory, too: two daemons may have VMs of one id.
func (h *Hypervisor) jailOf(m *hypervisor.Machine) host.Jail {
	sum := sha256.Sum256([]byte(m.Dir))
	return host.Jail{
		Base: h.o.Paths.Jails(), Program: h.program(), Name: fmt.Sprintf("%s-%x", m.ID, sum[:4]), UID: m.UID, GID: m.GID,
	}
}

// furnish puts into an empty jail what every VMM needs beside its drives.
func (h *Hypervisor) furnish(m *hypervisor.Machine, j host.Jail) error {
	for _, f := range []struct{ path, name string }{{ownLog(m), inLog}, {metricsFile(m), inMetrics}} {
		if err := h.put(j, f.name, f.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, true); err != nil {
			return err
		}
	}
	return nil
}

// furnishDrives puts a machine's drives into its jail.
func (h *Hypervisor) furnishDrives(m *hypervisor.Machine, j host.Jail, drives []attached) error {
	for n, d := range m.Drives {
		var err error
		if a := drives[n]; a.DMName != "" {
			err = h.o.Host.DeviceIntoJail(j, driveID(n), a.Major, a.Minor, d.ReadOnly)
		} else if d.ReadOnly {
			err = h.put(j, driveID(n), d.Path, os.O_RDONLY, false)
		} else {
			err = h.put(j, driveID(n), d.Path, os.O_RDWR, true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// put makes a file one of the jail's.
func (h *Hypervisor) put(j host.Jail, name, path string, flag int, own bool) error {
	f, err := os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(h.o.Host.LinkIntoJail(j, name, f, own), f.Close())
}
