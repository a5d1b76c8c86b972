package main

import (
	"errors"
	"os"
)

// thaws is a thaw to the agent's answer as the daemon sees it, beside QEMU alone.
func (b *bench) thaws() ([]line, error) {
	if err := b.banger("run", "-d", "--name", "x"); err != nil {
		return nil, err
	}
	bare, err := b.newBareThaw("x")
	if err != nil {
		return nil, err
	}
	s, err := b.alternate(b.rounds, b.timedRun, bare.do)
	if err := errors.Join(err, b.banger("rm", "-f", "x"), os.RemoveAll(bare.dir)); err != nil {
		return nil, err
	}
	return []line{{
		What: "thaw to the agent's answer (daemon's view)", Beside: "bare QEMU, same arguments and template",
		Ours: s[0], Theirs: s[1], Bound: bound{plus, 20},
	}}, nil
}

// timedRun is a run whose stages are kept; its sample is from the begin of the thaw to the agent's first answer.
func (b *bench) timedRun(round int) (float64, error) {
	_, said, err := b.both("run", "--rm", "--timings=json", "--image", "minimal", "--", "true")
	if err != nil {
		return 0, err
	}
	all, err := timingsIn(said)
	if err != nil {
		return 0, err
	}
	if round >= 0 {
		b.stages.add(all)
	}
	thaw, ok := find(all, "start", "thaw", 1)
	answer, answered := find(all, "start", "answer", 2)
	if !ok || !answered {
		return 0, errors.New("the timings tell of no thaw, or of no answer: " + said)
	}
	return answer.StartMS + answer.daemon() - thaw.StartMS, nil
}
