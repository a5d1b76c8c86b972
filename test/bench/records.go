package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"banger/api"
)

const (
	fewRecords  = 10
	manyRecords = 1000
)

// records is a daemon that knows very many VMs, beside one that knows few.
func (b *bench) records() (lines []line, err error) {
	homes := [2]*home{}
	for i, n := range []int{manyRecords, fewRecords} {
		h, err := b.newHome(fmt.Sprintf("r%d", i), fmt.Sprintf("BANGER_BRIDGE=bench%d", i), fmt.Sprintf("BANGER_SUBNET=172.%d.0.0/16", 28+i))
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, h.forget()) }()
		homes[i] = h
		if err := h.fill(n); err != nil {
			return nil, err
		}
	}
	many, few := homes[0], homes[1]
	list := func(h *home, args ...string) act {
		return timed(func(int) error { return h.banger(append([]string{"vm", "list"}, args...)...) })
	}
	rounds := 2*b.rounds - 1
	s, err := b.alternate(rounds, list(many), list(few), list(many, "-a"), list(few, "-a"))
	if err != nil {
		return nil, err
	}
	var size [2][]float64
	for i, h := range homes {
		pid, err := h.daemonPID()
		if err != nil {
			return nil, err
		}
		kib, err := kibibytes(fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
		if err != nil {
			return nil, err
		}
		size[i] = []float64{float64(kib) / 1024}
	}
	const beside = "with 10"
	return []line{
		{What: "daemon with 1,000 VM records: vm list", Beside: beside, Ours: s[0], Theirs: s[1], Bound: bound{ratio, 1.5}},
		{What: "daemon with 1,000 VM records: resident memory", Unit: "MB", Beside: beside, Ours: size[0], Theirs: size[1], Bound: bound{most, 80}},
		{What: "daemon with 1,000 VM records: vm list -a, which prints all", Beside: beside, Ours: s[2], Theirs: s[3]},
	}, nil
}

// fill makes records of VMs that have never been started.
func (h *home) fill(n int) error {
	if err := h.banger("info"); err != nil { // starts the daemon
		return err
	}
	c, err := h.client()
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range n {
		spec := api.VMCreate{Name: fmt.Sprintf("record%d", i), Spec: api.VMSpec{Image: "minimal"}}
		if _, err := c.CreateVM(h.ctx, spec); err != nil {
			return err
		}
	}
	return nil
}

// forget ends a home whose VMs have never been started: there is nothing of theirs outside of it.
func (h *home) forget() error {
	h.ctx = context.WithoutCancel(h.ctx)
	return errors.Join(h.banger("daemon", "stop"), os.RemoveAll(h.state))
}
