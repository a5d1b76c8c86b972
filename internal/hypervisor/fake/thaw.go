package fake

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"banger/api"
	"banger/internal/hypervisor"
)

// frozen is a file of device state: all that a fake guest has in memory. Commands are not in it: they end with the VMM.
type frozen struct {
	Stamp hypervisor.Stamp
	Guest guestState
}

// Stamp has the shape of the machine in it. The word other-version makes it another.
func (h *Hypervisor) Stamp(_ context.Context, m hypervisor.Machine) (hypervisor.Stamp, error) {
	drives := make([]string, 0, len(m.Drives))
	for _, d := range m.Drives {
		drives = append(drives, d.Serial)
	}
	nic := "none"
	if m.NIC != nil {
		nic = string(m.NIC.Kind)
	}
	return hypervisor.Stamp{
		{Name: "hypervisor", Value: "fake"},
		{Name: "version", Value: h.version()},
		{Name: "cpus", Value: strconv.Itoa(m.CPUs)},
		{Name: "memory", Value: strconv.FormatInt(m.MemoryBytes, 10)},
		{Name: "drives", Value: strings.Join(drives, " ")},
		{Name: "network", Value: nic},
	}, nil
}

// Thaw starts a VMM whose guest knows what the frozen one did.
func (h *Hypervisor) Thaw(ctx context.Context, m hypervisor.Machine, f hypervisor.Frozen, record hypervisor.Record) (hypervisor.Instance, error) {
	if f.Await != nil {
		if err := f.Await(ctx); err != nil {
			return nil, fmt.Errorf("cannot thaw the fake VMM of %s: %w", m.ID, err)
		}
	}
	was, err := readFrozen(f)
	if err != nil {
		return nil, api.Errorf(api.CodeConflict, "cannot thaw the fake VMM of %s: %w", m.ID, err)
	}
	stamp, err := h.Stamp(ctx, m)
	if err != nil {
		return nil, err
	}
	if fmt.Sprint(was.Stamp) != fmt.Sprint(stamp) {
		return nil, api.Errorf(api.CodeConflict, "cannot thaw the fake VMM of %s: it was frozen with %v, this is %v", m.ID, was.Stamp, stamp)
	}
	spec := machineSpec{Machine: plain(m), Behaviour: h.behaviour(), Thawed: &was.Guest}
	if spec.does(thawFails) {
		return nil, api.Errorf(api.CodeConflict, "cannot thaw the fake VMM of %s: it was told to fail", m.ID)
	}
	stage := func(names ...string) {
		for _, name := range names {
			if f.Stage != nil {
				f.Stage(name)
			}
		}
	}
	i, err := h.launch(ctx, spec, m, func(held hypervisor.Handles) error {
		if err := record(held); err != nil {
			return err
		}
		stage(hypervisor.StageSpawn, hypervisor.StageMonitor, hypervisor.StageMemory, hypervisor.StageDevices)
		if f.BeforeRun == nil {
			return nil
		}
		return f.BeforeRun()
	})
	if err == nil {
		stage(hypervisor.StageRun)
	}
	return i, err
}

func readFrozen(f hypervisor.Frozen) (frozen, error) {
	var was frozen
	b, err := os.ReadFile(f.Device)
	if err != nil {
		return was, err
	}
	for _, path := range []string{f.Memory, f.Pages} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			return was, err
		}
	}
	return was, json.Unmarshal(b, &was)
}

// Freeze writes the state; see answerFreeze.
func (i *instance) Freeze(ctx context.Context, f hypervisor.Freeze) (hypervisor.FreezeResult, error) {
	stamp, err := i.h.Stamp(ctx, i.m)
	if err == nil && slices.Contains(i.h.behaviour(), freezeFails) {
		err = api.Errorf(api.CodeExhausted, "no space left on the host")
	}
	var m message
	if err == nil {
		err = i.ask(ctx, request{Do: doFreeze, Freeze: &f, Stamp: stamp}, &m)
	}
	if err != nil {
		return hypervisor.FreezeResult{}, fmt.Errorf("cannot freeze the fake VMM of %s: %w", i.m.ID, err)
	}
	i.standing.Store(m.Standing)
	if f.Stage != nil { // all of it was one act
		for _, name := range []string{hypervisor.StageStand, hypervisor.StageCopy, hypervisor.StageSwitch, hypervisor.StageWrite} {
			f.Stage(name)
		}
	}
	return hypervisor.FreezeResult{StoodStill: m.StoodStill, MemoryBytes: 1}, nil
}

func (i *instance) Pause(ctx context.Context) error  { return i.stand(ctx, doPause) }
func (i *instance) Resume(ctx context.Context) error { return i.stand(ctx, doResume) }

func (i *instance) stand(ctx context.Context, what string) error {
	var m message
	if err := i.ask(ctx, request{Do: what}, &m); err != nil {
		return fmt.Errorf("cannot %s the fake VMM of %s: %w", what, i.m.ID, err)
	}
	i.standing.Store(m.Standing)
	return nil
}

func (i *instance) Standing() bool { return i.standing.Load() }

// SetLink: there is no network to be plugged out of.
func (i *instance) SetLink(ctx context.Context, _ bool) error {
	return i.ask(ctx, request{Do: doStatus}, nil)
}

func (i *instance) DriveFiles(ctx context.Context) (map[string]string, error) {
	var m message
	err := i.ask(ctx, request{Do: doStatus}, &m)
	return m.Files, err
}
