package main

import (
	"errors"
	"os"
)

// thaws is a thaw to the agent's answer to the host's greeting, as the daemon sees it, beside QEMU alone.
func (b *bench) thaws() ([]line, error) {
	if err := b.banger("run", "-d", "--name", "x"); err != nil {
		return nil, err
	}
	bare, err := b.newBareThaw("x")
	if err != nil {
		return nil, err
	}
	of := stages{title: "run --rm --timings -- true, thawed"}
	ours := func(round int) (float64, error) { return b.thawToAnswer(&of, round) }
	s, err := b.alternate(b.rounds, ours, bare.do)
	b.stages = append(b.stages, of)
	if err := errors.Join(err, b.banger("rm", "-f", "x"), os.RemoveAll(bare.dir)); err != nil {
		return nil, err
	}
	return []line{{
		What: "thaw to the agent's answer (daemon's view)", Beside: "bare QEMU, same arguments and template",
		Ours: s[0], Theirs: s[1], Bound: bound{plus, 20},
	}}, nil
}

// thawToAnswer is from the begin of a run's thaw to the agent's answer to the host's greeting.
func (h *home) thawToAnswer(of *stages, round int) (float64, error) {
	all, err := h.timedRun(of, round)
	if err != nil {
		return 0, err
	}
	thaw, ok := find(all, "start", "thaw", 1)
	answer, answered := find(all, "start", "answer", 2)
	if !ok || !answered {
		return 0, errors.New("the timings tell of no thaw, or of no answer")
	}
	return answer.StartMS + answer.daemon() - thaw.StartMS, nil
}

// timedRun is a run whose stages are kept.
func (h *home) timedRun(of *stages, round int) ([]timing, error) {
	_, said, err := h.both("run", "--rm", "--timings=json", "--image", "minimal", "--", "true")
	if err != nil {
		return nil, err
	}
	all, err := timingsIn(said)
	if round >= 0 {
		of.add(all)
	}
	return all, err
}
