package main

import (
	"errors"
	"time"
)

// pool is a run that takes a clone which waits for it, beside a container. Whoever is measured begins with a full pool and
// nothing being made for it.
func (b *bench) pool() (lines []line, err error) {
	p, err := b.newPodman()
	if err != nil {
		return nil, err
	}
	h, err := b.newHome("q", "BANGER_POOL=2", "BANGER_BRIDGE=benchq", "BANGER_SUBNET=172.27.0.0/16") // the first home's may linger
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	if err := h.banger("run", "--rm", "--", "true"); err != nil { // builds the template: the pool builds none
		return nil, err
	}
	full := func(do act) act {
		return func(round int) (float64, error) {
			if err := h.poolIsFull(); err != nil {
				return 0, err
			}
			return do(round)
		}
	}
	s, err := b.alternate(b.rounds,
		full(timed(func(int) error { return h.banger("run", "--rm", "--image", "minimal", "--", "true") })),
		full(timed(func(int) error { return p.run([]string{"--rm"}, "true") })))
	if err != nil {
		return nil, err
	}
	of := stages{title: "run --rm --timings -- true, from the pool"}
	if _, err := b.alternate(few, full(func(round int) (float64, error) {
		_, err := h.timedRun(&of, round)
		return 0, err
	})); err != nil {
		return nil, err
	}
	b.stages = append(b.stages, of)
	return []line{{
		What: "run --rm --image minimal -- true; from the pool", Beside: "podman run --rm, as above",
		Ours: s[0], Theirs: s[1], Bound: bound{ratio, 0.25},
	}}, nil
}

const (
	poolTime  = time.Minute
	poolPause = 20 * time.Millisecond
)

// poolIsFull waits until it is. Nobody announces that, so it is asked for.
func (h *home) poolIsFull() error {
	c, err := h.client()
	if err != nil {
		return err
	}
	defer c.Close()
	for end := time.Now().Add(poolTime); time.Now().Before(end); time.Sleep(poolPause) {
		info, err := c.Info(h.ctx)
		if err != nil {
			return err
		}
		if info.PoolReady == info.PoolWanted {
			time.Sleep(poolPause) // what asking has cost is over
			return nil
		}
	}
	return errors.New("the pool was not full in a minute")
}
