package dmsnapshot

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"banger/api"
	"banger/internal/host"
)

// stack is the devices of one name: the device itself, and those below it, whose names are the name, a dot and a number.
type stack struct {
	*Driver
	name string
	// number is of the last one below.
	number int
	// loops are held open until the tables hold them.
	loops []host.OpenedLoop
}

// stackOf looks which numbers are taken.
func (d *Driver) stackOf(name string) (*stack, error) {
	s := &stack{Driver: d, name: name}
	names, err := s.names()
	for _, n := range names {
		s.number = max(s.number, s.numberOf(n))
	}
	return s, err
}

// names are those of all devices of the stack.
func (s *stack) names() ([]string, error) {
	all, err := s.Host.MappedNames(s.name)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range all {
		if n == s.name || s.numberOf(n) > 0 {
			names = append(names, n)
		}
	}
	return names, nil
}

// numberOf is 0 for a device that is not below this one.
func (s *stack) numberOf(name string) int {
	rest, ok := strings.CutPrefix(name, s.name+".")
	if n, err := strconv.Atoi(rest); ok && err == nil && n > 0 {
		return n
	}
	return 0
}

func (s *stack) close() {
	for _, l := range s.loops {
		_ = l.Close()
	}
	s.loops = nil
}

// below makes a device below, in use.
func (s *stack) below(table []host.MapTarget) (host.Mapped, error) {
	s.number++
	m, err := s.Host.CreateMapped(fmt.Sprint(s.name, ".", s.number))
	if err != nil {
		return m, err
	}
	err = s.Host.LoadMapped(m.Name, table, true)
	if err == nil {
		err = s.Host.ResumeMapped(m.Name)
	}
	if err != nil {
		return m, errors.Join(err, s.Host.RemoveMapped(m.Name))
	}
	return m, nil
}

// ground is what a layer lies on: nothing, when it has no sectors.
type ground struct {
	device  host.Device
	sectors int64
}

// fit makes a ground of so many sectors: zeros follow what is there.
func (s *stack) fit(g ground, sectors int64) (ground, error) {
	var table []host.MapTarget
	switch {
	case g.sectors == sectors:
		return g, nil
	case g.sectors > sectors:
		return g, api.Errorf(api.CodeConflict, "a disk of %d MiB lies on one of %d MiB", sectors>>11, g.sectors>>11)
	case g.sectors > 0:
		table = append(table, host.MapTarget{Kind: host.MapLinear, Sectors: g.sectors, Origin: g.device})
	}
	table = append(table, host.MapTarget{Kind: host.MapZero, Sectors: sectors - g.sectors})
	m, err := s.below(table)
	return ground{device: m.Device, sectors: sectors}, err
}

// openLoop makes a loop device of a link, which this process holds until close.
func (s *stack) openLoop(ctx context.Context, l *link, o host.Loop) (host.OpenedLoop, error) {
	loop, err := s.Host.OpenLoop(ctx, l.file, o)
	if err == nil {
		s.loops = append(s.loops, loop)
	}
	return loop, err
}

// oldLoop is for a disk that nothing writes to any more.
func (s *stack) oldLoop(ctx context.Context, l *link) (host.OpenedLoop, error) {
	st, err := l.store()
	if err != nil {
		return host.OpenedLoop{}, err
	}
	// Just what is used: the kernel makes its tables in memory by the size of this device.
	return s.openLoop(ctx, l, host.Loop{ReadOnly: true, Offset: storeAt, Size: int64(st.used()) * chunkBytes})
}

// layer puts a disk that nothing writes to any more over g.
func (s *stack) layer(ctx context.Context, l *link, g ground) (ground, host.OpenedLoop, error) {
	g, err := s.fit(g, l.size/512)
	if err != nil {
		return g, host.OpenedLoop{}, err
	}
	loop, err := s.oldLoop(ctx, l)
	if err != nil {
		return g, loop, err
	}
	m, err := s.below(snapshot(g, loop.Device))
	return ground{device: m.Device, sectors: g.sectors}, loop, err
}

func snapshot(g ground, cow host.Device) []host.MapTarget {
	return []host.MapTarget{{Kind: host.MapSnapshot, Sectors: g.sectors, Origin: g.device, COW: cow}}
}

// byDevice are the devices of the stack as they are.
func (s *stack) byDevice() (map[host.Device]host.Mapped, error) {
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	devices := map[host.Device]host.Mapped{}
	for _, n := range names {
		m, err := s.Host.Mapped(n)
		if err != nil {
			return nil, err
		}
		devices[m.Device] = m
	}
	return devices, nil
}

// prune removes the devices below that the device does not lie on any more.
func (s *stack) prune() error {
	devices, err := s.byDevice()
	if err != nil {
		return err
	}
	var keep func(m host.Mapped)
	keep = func(m host.Mapped) {
		delete(devices, m.Device)
		for _, t := range m.Table {
			if next, ok := devices[t.Origin]; ok {
				keep(next)
			}
		}
	}
	for _, m := range devices {
		if m.Name != s.name {
			continue
		}
		if len(m.Table) == 0 {
			return nil // it may be about to lie on any of them
		}
		keep(m)
		break
	}
	// A higher one lies on lower ones, and nobody else has it open.
	for n := s.number; n > 0; n-- {
		for _, m := range devices {
			if s.numberOf(m.Name) == n {
				err = errors.Join(err, s.Host.RemoveMapped(m.Name))
			}
		}
	}
	return err
}
