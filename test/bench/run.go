package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"banger/api"
)

// runs is one command in a machine of its own, beside a container.
func (b *bench) runs() ([]line, error) {
	p, err := b.newPodman()
	if err != nil {
		return nil, err
	}
	s, err := b.alternate(b.rounds,
		timed(func(int) error { return b.banger("run", "--rm", "--image", "minimal", "--", "true") }),
		timed(func(int) error { return p.run([]string{"--rm"}, "true") }),
		func(int) (float64, error) { return 0, b.nothingLeft() })
	if err != nil {
		return nil, err
	}
	return []line{{
		What: "run --rm --image minimal -- true; no pool", Beside: "podman run --rm of the same root, no network, no cgroups",
		Ours: s[0], Theirs: s[1], Bound: bound{ratio, 0.8}, Aim: bound{ratio, 0.5},
	}}, nil
}

// nothingLeft insists that a machine is gone when its run has returned.
func (b *bench) nothingLeft() error {
	left, err := os.ReadDir(filepath.Join(b.state, "vms"))
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("something was left: %v", left)
	}
	return nil
}

// execs is one command in a machine that runs, beside a container.
func (b *bench) execs() ([]line, error) {
	p, err := b.newPodman()
	if err != nil {
		return nil, err
	}
	if err := b.banger("run", "-d", "--name", "x"); err != nil {
		return nil, err
	}
	c, err := b.client()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var s [][]float64
	if err := p.with(func() (err error) {
		s, err = b.alternate(2*b.rounds-1,
			timed(func(int) error { return b.banger("exec", "x", "--", "true") }),
			timed(func(int) error { return p.do("exec", "y", "true") }),
			timed(func(int) error {
				_, err := c.ExecWait(context.WithoutCancel(b.ctx), "x", api.ExecSpec{Argv: []string{"true"}})
				return err
			}))
		return err
	}); err != nil {
		return nil, err
	}
	return []line{
		{What: "exec x -- true", Beside: "podman exec", Ours: s[0], Theirs: s[1], Bound: bound{ratio, 0.25}},
		{What: "exec through the API, no process started", Ours: s[2]},
	}, b.banger("rm", "-f", "x")
}
