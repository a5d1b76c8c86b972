package machine

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/api"
)

// figureRounds is how often each is done; the median counts, for one round is chance.
const figureRounds = 3

// figures are the rows of a table.
type figures struct {
	*box
	rows []string
}

// row is one figure, with the least and the most of its rounds.
func (f *figures) row(what string, took []time.Duration) {
	slices.Sort(took)
	round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	f.rows = append(f.rows, fmt.Sprintf("| %s | %s | %s to %s |", what, round(took[len(took)/2]), round(took[0]), round(took[len(took)-1])))
}

// timed is how long a command of banger's takes as a caller sees it.
func (f *figures) timed(args ...string) time.Duration {
	f.t.Helper()
	begin := time.Now()
	f.must(args...)
	return time.Since(begin)
}

// stages are how long the stages of the last operation of a kind took, and how many bytes its step freeze has told of.
func (f *figures) stages(kind string) (stages map[string]time.Duration, bytes int64) {
	f.t.Helper()
	var ops []api.Operation
	f.call(200, "GET", "/v1/operations", nil, &ops)
	stages = map[string]time.Duration{}
	for _, op := range slices.Backward(ops) {
		if op.Kind != kind {
			continue
		}
		for _, step := range op.Steps {
			if step.Name == "freeze" {
				bytes = step.Done
			}
			for _, s := range step.Stages {
				stages[s.Name] = time.Duration(s.DurationUS) * time.Microsecond
			}
		}
		return stages, bytes
	}
	f.t.Fatalf("there was no operation %s", kind)
	return nil, 0
}

// still forks x, whose own pages are made up to want MB before, and adds how long it stood.
func (f *figures) still(want int) {
	f.t.Helper()
	f.must("fork", "x", "--name", "f")
	_, bytes := f.stages("vm.fork")
	f.must("rm", "-f", "f")
	if more := want - int(bytes>>20); more > 0 {
		f.guest("x", fmt.Sprintf("mount -o remount,size=90%% /dev/shm; head -c %d /dev/zero | tr '\\0' x >/dev/shm/%d", more<<20, want))
	}
	var took, whole []time.Duration
	for range figureRounds {
		whole = append(whole, f.timed("fork", "x", "--name", "f"))
		stages, n := f.stages("vm.fork")
		took, bytes = append(took, stages["stood still"]), n
		f.must("rm", "-f", "f")
	}
	if got := int(bytes >> 20); got < want {
		f.t.Errorf("a fork with %d MB of its own pages, want %d", got, want)
	}
	f.row(fmt.Sprintf("fork, %d MB of its own pages", bytes>>20), whole)
	f.row("&ensp;the source stands still", took)
}

// TestLongFigures prints how long things take on this hypervisor, as a table for docs/benchmarks-lab.md. It has no bounds: where it is
// run, guests may be emulated twice.
func TestLongFigures(t *testing.T) {
	b := newBox(t)
	f := &figures{box: b}
	each := func(what string, do func(n int) time.Duration) {
		var took []time.Duration
		for n := range figureRounds {
			took = append(took, do(n))
		}
		f.row(what, took)
	}
	b.must("run", "--rm", "--cold", "--", "true") // the bridge is made
	each("run --rm --cold -- true", func(int) time.Duration { return f.timed("run", "--rm", "--cold", "--", "true") })
	f.row("template build (128 MiB)", []time.Duration{f.timed("template", "build")})
	b.must("run", "--rm", "--", "true")
	each("run --rm -- true", func(int) time.Duration { return f.timed("run", "--rm", "--", "true") })
	var thaw []time.Duration
	each("run -d", func(n int) time.Duration {
		took := f.timed("run", "-d", "--name", "t")
		stages, _ := f.stages("vm.start")
		var sum time.Duration
		for _, name := range []string{"spawn", "monitor", "memory", "devices", "run"} {
			sum += stages[name]
		}
		thaw = append(thaw, sum)
		if n < figureRounds-1 {
			b.must("rm", "-f", "t")
		}
		return took
	})
	f.row("&ensp;the thaw in it, to the guest's first instruction", thaw)
	each("exec -- true", func(int) time.Duration { return f.timed("exec", "t", "--", "true") })
	var start []time.Duration
	each("suspend", func(int) time.Duration {
		took := f.timed("suspend", "t")
		start = append(start, f.timed("start", "t"))
		return took
	})
	f.row("start of a suspended VM", start)
	start = nil
	each("stop", func(int) time.Duration {
		took := f.timed("stop", "t")
		start = append(start, f.timed("start", "t"))
		return took
	})
	f.row("start of a stopped VM (a boot)", start)
	f.row("rm -f of a running VM", []time.Duration{f.timed("rm", "-f", "t")})
	b.must("run", "-d", "--name", "x", "--memory", "768M")
	f.still(15)
	f.still(500)
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	info := b.info()
	fmt.Printf("\n## %s, %s; daemon %s; %d CPUs, load %s\n| what | median | least to most |\n|---|---|---|\n%s\n\n",
		info.Hypervisor, info.Accel, info.Rights, runtime.NumCPU(), strings.Fields(string(load))[0], strings.Join(f.rows, "\n"))
	b.must("rm", "-f", "x")
}
