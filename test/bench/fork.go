package main

import "errors"

// forks is a running machine that is copied, beside a new one.
func (b *bench) forks() ([]line, error) {
	lines := []line{
		{What: "vm fork (15 MB of its own pages) to the first exec", Beside: "thaw of a template to the first exec", Bound: bound{ratio, 1.5}},
		{What: "vm fork: source stopped", Bound: bound{most, 15}},
		{What: "vm fork: source stopped, while it writes and fsyncs", Bound: bound{most, 30}},
		{What: "vm fork --count 10", Beside: "vm fork", Bound: bound{ratio, 6}},
	}
	for i := range lines {
		lines[i].Err = errNotBuilt
		if b.has("vm", "fork") {
			lines[i].Err = errors.New("there is a fork, and it is not measured yet")
		}
	}
	return lines, nil
}
