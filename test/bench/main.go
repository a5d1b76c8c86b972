// Program bench measures what banger's everyday acts cost on this machine, each beside what it is to be compared with, and
// holds the medians to their bounds: it exits 1 where one is missed. It uses the programs in bin/ and the images that
// scripts/machine-state has prepared; `make bench` runs it, as root in network and mount namespaces of its own.
// Nobody may import it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if os.Getpid() == 1 { // bare QEMU's /init is this program too
		powerOff()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	rounds := flag.Int("rounds", 11, "how often each quick thing is done; odd, so that the median is one of them")
	rows := flag.String("rows", "", "only these groups, by commas: "+strings.Join(keys(), ", "))
	write := flag.String("write", "", "write the result as Markdown to this `FILE`")
	flag.Parse()
	outside, err := measure(ctx, *rounds, *rows, *write)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if len(outside) > 0 {
		fmt.Fprintf(os.Stderr, "bench: outside their bounds: %s\n", strings.Join(outside, "; "))
		os.Exit(1)
	}
}

// bench is one run of all measurements.
type bench struct {
	*home
	ctx    context.Context
	dir    string
	bin    string
	rounds int
	// stages are where the time of runs goes, as run --timings has it.
	stages []stages
}

// group is what is measured together.
type group struct {
	key string
	run func(*bench) ([]line, error)
}

// groups are measured in this order.
func groups() []group {
	return []group{
		{"run", (*bench).runs},
		{"pool", (*bench).pool},
		{"exec", (*bench).execs},
		{"thaw", (*bench).thaws},
		{"fork", (*bench).forks},
		{"idle", (*bench).idle},
		{"records", (*bench).records},
		{"cold", (*bench).cold},
		{"workspace", (*bench).workspaces},
	}
}

func keys() (names []string) {
	for _, g := range groups() {
		names = append(names, g.key)
	}
	return names
}

// measure returns the names of the lines that are outside their bounds.
func measure(ctx context.Context, rounds int, rows, write string) (outside []string, err error) {
	wanted := strings.FieldsFunc(rows, func(r rune) bool { return r == ',' })
	for _, w := range wanted {
		if !slices.Contains(keys(), w) {
			return nil, fmt.Errorf("no group %q; there are %s", w, strings.Join(keys(), ", "))
		}
	}
	b, err := newBench(ctx, rounds)
	if err != nil {
		return nil, err
	}
	defer b.close()
	r := report{facts: machineFacts(), begun: time.Now(), rounds: rounds}
	fmt.Println(r.heading())
	for _, g := range groups() {
		if len(wanted) > 0 && !slices.Contains(wanted, g.key) {
			continue
		}
		begin := time.Now()
		lines, err := g.run(b)
		if err != nil {
			lines = append(lines, line{What: g.key, Bound: broken, Err: err})
		}
		for _, l := range lines {
			fmt.Println(l.text())
			if !l.holds() {
				outside = append(outside, l.What)
			}
		}
		r.lines = append(r.lines, lines...)
		fmt.Fprintf(os.Stderr, "(%s took %.0f s, load now %s)\n", g.key, time.Since(begin).Seconds(), load())
		if ctx.Err() != nil {
			return outside, ctx.Err()
		}
	}
	r.took, r.stages = time.Since(r.begun), b.stages
	for _, s := range r.stages {
		fmt.Print(s.text())
	}
	if write != "" {
		return outside, os.WriteFile(write, []byte(r.markdown()), 0o644) //nolint:gosec // a document
	}
	return outside, nil
}
