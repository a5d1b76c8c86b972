// Program bench prints what banger's everyday acts cost on this machine, as medians, with bare
// QEMU's boot of the same kernel and the host's own compile beside them. It uses the programs in
// bin/ and the images that scripts/machine-state has prepared; `make bench` runs it,
// as root in a network namespace of its own. Nobody may import it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger/api"
)

// runs is how often each thing is done; odd, so that the median is one of them.
const runs = 5

func main() {
	if os.Getpid() == 1 { // bare QEMU's /init is this program too
		powerOff()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := measure(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run of all measurements.
type bench struct {
	ctx context.Context
	dir string
	bin string
	env []string
}

func measure(ctx context.Context) (err error) {
	b, err := newBench(ctx)
	if err != nil {
		return err
	}
	defer b.close()
	var info api.Info
	if err := b.json(&info, "info", "--json"); err != nil {
		return err
	}
	fmt.Printf("banger %s, %s (%s), %d CPUs, load %.1f; medians of %d\n\n", info.Version, info.Accel, info.AccelReason, info.CPUs, info.CPULoad, runs)

	row("run --rm -- true, cold, minimal image", b.times(func(i int) error { return b.banger("run", "--rm", "--", "true") }))
	if err := b.banger("run", "-d", "--name", "x"); err != nil {
		return err
	}
	bare, err := b.bareQEMU()
	row("bare QEMU, same kernel and settings, to its /init", bare, err)
	row("exec true", b.times(func(i int) error { return b.banger("exec", "x", "--", "true") }))
	row("a child on the host: sh -c true", b.times(func(i int) error { return exec.Command("sh", "-c", "true").Run() }))
	source, err := b.source()
	if err != nil {
		return err
	}
	compiler, err := compilerPath()
	if err != nil {
		return err
	}
	for from, to := range map[string]string{compiler: "/tmp/compile", source: "/tmp/big.go"} {
		if err := b.banger("cp", from, "x:"+to); err != nil {
			return err
		}
	}
	row("compile of 5,000 lines in the guest", b.times(func(i int) error {
		return b.banger("exec", "x", "--", "/tmp/compile", "-p", "main", "-o", "/tmp/o", "/tmp/big.go")
	}))
	row("the same on the host", b.times(func(i int) error {
		return exec.Command(compiler, "-p", "main", "-o", filepath.Join(b.dir, "o"), source).Run()
	}))
	row("stop", b.stops())
	row("run --rm -- true, cold, debian with systemd", b.times(func(i int) error {
		return b.banger("run", "--rm", "--image", "debian", "--memory", "512M", "--", "true")
	}))
	return ctx.Err()
}

// result is the times of one thing, or why there are none.
type result struct {
	times []time.Duration
	err   error
}

func row(name string, what ...any) {
	var r result
	for _, w := range what {
		switch w := w.(type) {
		case result:
			r = w
		case error:
			r.err = w
		}
	}
	if r.err != nil {
		fmt.Printf("%-55s failed: %v\n", name, r.err)
		return
	}
	slices.Sort(r.times)
	fmt.Printf("%-55s %8s   (%s to %s)\n", name, short(r.times[len(r.times)/2]), short(r.times[0]), short(r.times[len(r.times)-1]))
}

func short(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func (b *bench) times(do func(i int) error) (r result) {
	for i := range runs {
		begin := time.Now()
		if r.err = do(i); r.err != nil {
			return r
		}
		r.times = append(r.times, time.Since(begin))
	}
	return r
}

// stops measures stop alone: the starts in between do not count.
func (b *bench) stops() (r result) {
	for i := range runs {
		if i > 0 {
			if r.err = b.banger("start", "x"); r.err != nil {
				return r
			}
		}
		begin := time.Now()
		if r.err = b.banger("stop", "x"); r.err != nil {
			return r
		}
		r.times = append(r.times, time.Since(begin))
	}
	return r
}

// banger runs a command; what it said is in the error.
func (b *bench) banger(args ...string) error {
	_, err := b.output(args...)
	return err
}

func (b *bench) json(v any, args ...string) error {
	out, err := b.output(args...)
	if err != nil {
		return err
	}
	return json.Unmarshal(out, v)
}

func (b *bench) output(args ...string) ([]byte, error) {
	cmd := exec.CommandContext(b.ctx, filepath.Join(b.bin, "banger"), args...)
	cmd.Env = b.env
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("banger %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out, nil
}
