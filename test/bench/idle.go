package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	clones     = 100
	atOnce     = 4                // so that no CPU waits for another's disk
	settle     = 10 * time.Second // after the last thaw
	idleWindow = 20 * time.Second
	cloneRoom  = 64 << 20 // more than a clone takes
)

// idle is what machines cost that do nothing.
func (b *bench) idle() ([]line, error) {
	if err := warmMemory(clones * cloneRoom); err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := b.each(func(name string) error { return b.banger("run", "-d", "--image", "minimal", "--name", name) }); err != nil {
		return nil, err
	}
	thawed := time.Since(begin)
	pids, err := b.myVMMs()
	if err != nil {
		return nil, err
	}
	if len(pids) != clones {
		return nil, fmt.Errorf("%d VMMs run, not %d", len(pids), clones)
	}
	time.Sleep(settle)
	before, err := cpuTimes(pids)
	if err != nil {
		return nil, err
	}
	from := time.Now()
	time.Sleep(idleWindow)
	after, err := cpuTimes(pids)
	if err != nil {
		return nil, err
	}
	window := time.Since(from)
	var share, memory []float64
	for _, pid := range pids {
		share = append(share, 100*float64(after[pid]-before[pid])/float64(window))
		kib, err := proportional(pid)
		if err != nil {
			return nil, err
		}
		memory = append(memory, float64(kib)/1024)
	}
	begin = time.Now()
	if err := b.each(func(name string) error { return b.banger("exec", name, "--", "true") }); err != nil {
		return nil, err
	}
	ran := time.Since(begin)
	gone := time.Now()
	if err := b.each(func(name string) error { return b.banger("rm", "-f", name) }); err != nil {
		return nil, err
	}
	of := fmt.Sprintf("%d idle minimal clones: ", clones)
	return []line{
		{What: of + "PSS of each", Unit: "MB", Ours: memory, Bound: bound{most, 45}},
		{What: of + "share of a core, each", Unit: "%", Ours: share, Bound: bound{most, 0.35}},
		{What: of + "all thawed and answering", Ours: []float64{milliseconds(thawed)}, Bound: bound{most, clones * 150}},
		{What: of + "a first program in each", Ours: []float64{milliseconds(ran)}},
		{What: of + "all deleted", Ours: []float64{milliseconds(time.Since(gone))}},
	}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// each does something for every clone, a few at once.
func (b *bench) each(do func(name string) error) error {
	names := make(chan string)
	go func() {
		defer close(names)
		for i := range clones {
			names <- fmt.Sprintf("idle%d", i)
		}
	}()
	errs := make(chan error, clones)
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for name := range names {
				errs <- do(name)
			}
		})
	}
	wg.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// myVMMs are the VMMs of this bench.
func (b *bench) myVMMs() (pids []int, err error) {
	all, err := vmms()
	for pid, argv := range all {
		if strings.Contains(strings.Join(argv, " "), b.state+"/") {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// cpuTimes is the time that each process has had of CPUs so far, all its threads together.
func cpuTimes(pids []int) (map[int]time.Duration, error) {
	all := map[int]time.Duration{}
	for _, pid := range pids {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			return nil, err
		}
		for _, path := range tasks {
			var ns int64
			text, err := os.ReadFile(path)
			if errors.Is(err, os.ErrNotExist) {
				continue // a thread that has just ended
			}
			if _, serr := fmt.Sscan(string(text), &ns); err != nil || serr != nil {
				return nil, errors.Join(err, serr)
			}
			all[pid] += time.Duration(ns)
		}
	}
	return all, nil
}

// proportional is a process's PSS in KiB.
func proportional(pid int) (int64, error) {
	return kibibytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
}

// kibibytes finds a line like "Pss: 123 kB".
func kibibytes(path, key string) (n int64, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), key); ok {
			_, err = fmt.Sscan(rest, &n)
			return n, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, key)
}
