package main

import (
	"errors"
	"fmt"
	"slices"

	"banger/api"
	"banger/client"
)

const megabyte = 1 << 20

// forks is a running machine that is copied, beside a new one.
func (b *bench) forks() ([]line, error) {
	if err := b.banger("run", "-d", "--name", "f", "--image", "minimal"); err != nil {
		return nil, err
	}
	c, err := b.client()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	f := &forkBench{bench: b, client: c}
	lines, err := f.all()
	return lines, errors.Join(err, b.banger("rm", "-f", "f"))
}

// forkBench forks the VM "f".
type forkBench struct {
	*bench
	client *client.Client
	own    float64 // MB of the source's own pages, as last frozen
	still  []float64
}

func (f *forkBench) all() ([]line, error) {
	if err := f.grow(15, "small"); err != nil {
		return nil, err
	}
	small, err := f.toExec()
	if err != nil {
		return nil, err
	}
	of := func(what string) string { return fmt.Sprintf("vm fork, %.0f MB of its own pages: %s", f.own, what) }
	const beside = "thaw of a template to the first exec"
	lines := []line{
		{What: of("to the first exec"), Beside: beside, Ours: small[0], Theirs: small[1], Bound: bound{ratio, 1.5}},
		{What: of("source stopped"), Ours: f.take(), Bound: bound{most, 15}},
	}
	if err := f.writing(); err != nil {
		return lines, err
	}
	lines = append(lines, line{What: of("source stopped, while it writes and fsyncs"), Ours: f.take(), Bound: bound{most, 30}})
	count, err := f.count()
	if err != nil {
		return lines, err
	}
	lines = append(lines, line{What: "vm fork --count 10", Beside: "vm fork", Ours: count[0], Theirs: count[1], Bound: bound{ratio, 6}})
	f.take()
	if err := f.grow(100, "large"); err != nil {
		return lines, err
	}
	large, err := f.toExec()
	if err != nil {
		return lines, err
	}
	return append(lines,
		line{What: of("to the first exec"), Beside: beside, Ours: large[0], Theirs: large[1]},
		line{What: of("source stopped"), Ours: f.take()}), nil
}

// take is how long the source stood still in the forks since the last call.
func (f *forkBench) take() []float64 {
	s := f.still
	f.still = nil
	return s
}

// grow gives the source as many MB of pages of its own, by a file in memory.
func (f *forkBench) grow(want float64, file string) error {
	if err := f.fork(-1); err != nil {
		return err
	}
	if n := int(want-f.own) - 2; n > 0 { // writing it costs a few more
		if err := f.banger("exec", "f", "--", "dd", "if=/dev/urandom", "of=/dev/shm/"+file, "bs=1M", fmt.Sprint("count=", n)); err != nil {
			return err
		}
	}
	return f.fork(-1)
}

// toExec is from the begin of a fork to the end of its first command, beside a thaw.
func (f *forkBench) toExec() ([][]float64, error) {
	exec := func() error { return f.banger("exec", "g", "--", "true") }
	gone := func(int) (float64, error) { return 0, f.banger("rm", "-f", "g") }
	s, err := f.alternate(f.rounds,
		timed(func(int) error { return errors.Join(f.banger("fork", "f", "--name", "g"), exec()) }),
		func(round int) (float64, error) { return 0, f.note(round) }, gone,
		timed(func(int) error {
			return errors.Join(f.banger("run", "-d", "--image", "minimal", "--name", "g"), exec())
		}), gone)
	if err != nil {
		return nil, err
	}
	return [][]float64{s[0], s[3]}, nil
}

// fork makes a fork and removes it.
func (f *forkBench) fork(round int) error {
	return errors.Join(f.banger("fork", "f", "--name", "g"), f.note(round), f.banger("rm", "-f", "g"))
}

// note keeps what the daemon has measured of the last fork; a round below 0 does not count.
func (f *forkBench) note(round int) error {
	ops, err := f.client.Operations(f.ctx)
	if err != nil {
		return err
	}
	for _, op := range slices.Backward(ops) {
		if op.Kind != "vm.fork" {
			continue
		}
		freeze := slices.IndexFunc(op.Steps, func(s api.OperationStep) bool { return s.Name == "freeze" })
		if freeze < 0 {
			break
		}
		step := op.Steps[freeze]
		f.own = float64(step.Done) / megabyte
		for _, s := range step.Stages {
			if s.Name != "stood still" {
				continue
			}
			if round >= 0 {
				f.still = append(f.still, float64(s.DurationUS)/1000)
			}
			return nil
		}
	}
	return errors.New("the daemon tells of no fork, or not how long its source stood still")
}

// writing forks while the source writes and fsyncs.
func (f *forkBench) writing() error {
	const loop = "while [ ! -e /dev/shm/end ]; do dd if=/dev/urandom of=/root/written bs=64k count=4 conv=fsync 2>/dev/null; done"
	if err := f.banger("exec", "f", "--", "sh", "-c", "("+loop+") >/dev/null 2>&1 </dev/null &"); err != nil {
		return err
	}
	_, err := f.alternate(f.rounds, func(round int) (float64, error) { return 0, f.fork(round) })
	return errors.Join(err, f.banger("exec", "f", "--", "touch", "/dev/shm/end"))
}

// count is ten forks at once, beside one.
func (f *forkBench) count() ([][]float64, error) {
	names := []string{"rm", "-f"}
	for n := range 10 {
		names = append(names, fmt.Sprintf("g-%d", n+1))
	}
	s, err := f.alternate(f.rounds,
		timed(func(int) error { return f.banger("fork", "f", "--count", "10", "--name", "g") }),
		func(int) (float64, error) { return 0, f.banger(names...) },
		timed(func(int) error { return f.banger("fork", "f", "--name", "g") }),
		func(int) (float64, error) { return 0, f.banger("rm", "-f", "g") })
	if err != nil {
		return nil, err
	}
	return [][]float64{s[0], s[2]}, nil
}
