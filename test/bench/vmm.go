package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// vmmOf is the process that runs a VM, with its arguments.
func vmmOf(id string) (pid int, argv []string, err error) {
	all, err := vmms()
	if err != nil {
		return 0, nil, err
	}
	for pid, argv := range all {
		for _, a := range argv {
			if a == "guest="+id {
				return pid, argv, nil
			}
		}
	}
	return 0, nil, fmt.Errorf("VM %q has no VMM", id)
}

// vmms are all processes that run VMs, anybody's, with their arguments.
func vmms() (map[int][]string, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	all := map[int][]string{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(text, []byte("\x00guest=")) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			all[pid] = strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
		}
	}
	return all, nil
}

// openTap makes a tap device that is gone when the descriptor is closed.
func openTap() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "tap")
	ifr, err := unix.NewIfreq("bench%d")
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
