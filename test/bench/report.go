package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is what docs/benchmarks.md is made of.
type report struct {
	facts  facts
	begun  time.Time
	took   time.Duration
	rounds int
	lines  []line
	stages []stages
}

// facts are those of the machine that figures depend on; nothing that names it.
type facts struct {
	cpu, memory, system, qemu, podman, commit, load string
}

// atLoad is how busy the machine was, and whether that could touch what was measured.
func atLoad() string {
	attr, err := unix.SchedGetAttr(0, 0)
	if err == nil && attr.Policy == unix.SCHED_RR {
		return load() + " (by others; all that was measured went before them: BUSY=1)"
	}
	return load()
}

func machineFacts() facts {
	f := facts{
		cpu: fmt.Sprintf("%d × %s", runtime.NumCPU(), valueIn("/proc/cpuinfo", "model name")), memory: valueIn("/proc/meminfo", "MemTotal"),
		system: valueIn("/etc/os-release", "PRETTY_NAME"), qemu: firstLine("qemu-system-x86_64", "--version"), podman: firstLine("podman", "--version"),
		commit: firstLine("git", "describe", "--tags", "--always", "--dirty"), load: atLoad(),
	}
	var kib int64
	if _, err := fmt.Sscan(f.memory, &kib); err == nil {
		f.memory = fmt.Sprintf("%.1f GiB", float64(kib)/(1<<20))
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		number, _, _ := strings.Cut(strings.TrimSpace(string(release)), "-") // what follows may name the machine's owner
		f.system += ", kernel " + number
	}
	return f
}

// valueIn finds "key: value" or key=value in a file; empty if it is not there.
func valueIn(path, key string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		k, v, ok := strings.Cut(lines.Text(), ":")
		if !ok {
			k, v, ok = strings.Cut(lines.Text(), "=")
		}
		if ok && strings.TrimSpace(k) == key {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return ""
}

func firstLine(argv ...string) string {
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	if err != nil {
		return "no " + argv[0]
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// load is the load average over one minute.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	one, _, _ := strings.Cut(string(text), " ")
	return one
}

func (r report) heading() string {
	return fmt.Sprintf("banger %s; %s, %s; %s; %s; load %s at the begin; medians of %d\n", r.facts.commit, r.facts.cpu, r.facts.memory, r.facts.qemu, r.facts.podman, r.facts.load, r.rounds)
}

const preface = `# Benchmarks

Written by ` + "`make bench WRITE=1`" + `; a figure here is one run on one machine, everything in it measured in turn: what stands side by side
was done alternately, once each per round, after one round that does not count. A figure is the median, with the least and the
most of the rounds. ` + "`make bench`" + ` exits 1 where a bound is missed. Times of commands are whole processes, as a caller sees them.
Before each round the host's free memory is used once (test/bench/memory.go): where the host is a virtual machine itself, pages that it has not used
for a while cost up to 8 µs more, and a clone takes ten thousand. Firecracker and QEMU with KVM are in [benchmarks-lab.md](benchmarks-lab.md).

`

func (r report) markdown() string {
	var b strings.Builder
	b.WriteString(preface)
	for _, f := range [][2]string{
		{"measured", r.begun.UTC().Format("2006-01-02") + ", commit " + r.facts.commit},
		{"machine", r.facts.cpu + ", " + r.facts.memory},
		{"system", r.facts.system},
		{"QEMU", r.facts.qemu},
		{"podman", r.facts.podman},
		{"rounds", fmt.Sprint(r.rounds)},
		{"load at the begin", r.facts.load},
		{"it took", r.took.Round(time.Second).String()},
	} {
		fmt.Fprintf(&b, "- %s: %s\n", f[0], f[1])
	}
	bounded, others := false, false
	for _, l := range r.lines {
		bounded, others = bounded || l.Bound.kind != none, others || l.Bound.kind == none
	}
	if bounded {
		b.WriteString("\n## With bounds\n| what | banger | beside it | | reached | must reach | within |\n|---|---|---|---|---|---|---|\n")
		for _, l := range r.lines {
			if l.Bound.kind != none {
				cells(&b, l.What, l.figures(l.Ours), l.Beside, l.figures(l.Theirs), l.reached(), l.Bound.words(l.unit()), l.verdict())
			}
		}
	}
	if others {
		b.WriteString("\n## For comparison\n| what | banger | beside it | |\n|---|---|---|---|\n")
		for _, l := range r.lines {
			if l.Bound.kind == none {
				cells(&b, l.What, l.figures(l.Ours), l.Beside, l.figures(l.Theirs))
			}
		}
	}
	for _, s := range r.stages {
		b.WriteString(s.markdown())
	}
	return b.String()
}

func cells(b *strings.Builder, texts ...string) {
	for _, t := range texts {
		b.WriteString("| " + strings.ReplaceAll(strings.ReplaceAll(t, "\n", " "), "|", `\|`) + " ")
	}
	b.WriteString("|\n")
}
