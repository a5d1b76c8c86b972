package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// verdict is how a suite ended.
type verdict struct {
	name  string
	err   error
	took  time.Duration
	tests int
}

// runSuites runs the suites that are asked for, all by default, as many at a time as there are jobs.
func runSuites(ctx context.Context, args []string) (int, error) {
	flags := flag.NewFlagSet("lab suites", flag.ContinueOnError)
	host := flags.String("host", ".cache/lab", "`DIR` of the lab host's files")
	firecracker := flags.String("firecracker-dir", "", "`DIR` of firecracker and jailer; else they are looked for in PATH")
	jobs := flags.Int("jobs", 2, "hosts at a time")
	timeout := flags.Duration("timeout", 30*time.Minute, "end a suite after this time")
	memory := flags.String("memory", "4G", "memory of a host")
	results := flags.String("out", "", "keep each host's console in this `DIR`")
	if err := flags.Parse(args); err != nil {
		return 2, nil
	}
	dir, err := firecrackerDir(*firecracker)
	if err != nil {
		return codeBroken, err
	}
	chosen, skipped, err := choose(flags.Args(), dir != "")
	if err != nil {
		return 2, err
	}
	work, err := os.MkdirTemp("", "lab")
	if err != nil {
		return codeBroken, err
	}
	defer os.RemoveAll(work)

	template := labHost{dir: *host, memory: *memory, cpus: 1, timeout: *timeout}
	verdicts := make([]verdict, len(chosen))
	var running sync.WaitGroup
	free := make(chan struct{}, max(1, *jobs))
	var lines sync.Mutex
	for n, s := range chosen {
		free <- struct{}{}
		running.Go(func() {
			defer func() { <-free }()
			h := template
			h.console = filepath.Join(work, s.name+".console")
			if *results != "" {
				h.console = filepath.Join(*results, s.name+".console")
			}
			verdicts[n] = s.run(ctx, h, dir, work, &lines)
		})
	}
	running.Wait()
	return report(verdicts, skipped, dir)
}

// firecrackerDir is where firecracker and jailer lie; empty where they do not, which is no error unless they were asked for.
func firecrackerDir(asked string) (string, error) {
	if asked != "" {
		for _, name := range []string{"firecracker", "jailer"} {
			if _, err := os.Stat(filepath.Join(asked, name)); err != nil {
				return "", fmt.Errorf("FIRECRACKER_DIR: %w", err)
			}
		}
		return asked, nil
	}
	fc, _ := exec.LookPath("firecracker") // empty where there is none
	jailer, _ := exec.LookPath("jailer")
	if fc == "" || jailer == "" {
		return "", nil
	}
	if filepath.Dir(fc) != filepath.Dir(jailer) {
		return "", fmt.Errorf("%s and %s lie in two directories: name one that has both in FIRECRACKER_DIR", fc, jailer)
	}
	return filepath.Dir(fc), nil
}

// choose picks suites by name. Those that want firecracker are left out where there is none, unless asked for by name.
func choose(names []string, haveFirecracker bool) (chosen []suite, skipped []string, err error) {
	for _, s := range suites() {
		asked := slices.Contains(names, s.name)
		switch {
		case len(names) > 0 && !asked, s.asked && !asked:
		case s.firecracker && !haveFirecracker && asked:
			return nil, nil, fmt.Errorf("suite %s needs FIRECRACKER_DIR", s.name)
		case s.firecracker && !haveFirecracker:
			skipped = append(skipped, s.name)
		default:
			chosen = append(chosen, s)
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(suites(), func(s suite) bool { return s.name == name }) {
			return nil, nil, fmt.Errorf("no suite %s: there are %s", name, suiteNames())
		}
	}
	return chosen, skipped, nil
}

func suiteNames() string {
	var names []string
	for _, s := range suites() {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}

// run runs one suite in a host of its own; what it prints is shown with its name before each line.
func (s suite) run(ctx context.Context, h labHost, firecracker, work string, lines *sync.Mutex) verdict {
	begin := time.Now()
	out := &prefixer{prefix: s.name + ": ", to: os.Stdout, lines: lines}
	defer out.flush()
	h.systemd, h.stdout, h.stderr = s.systemd, out, out
	p := payload{tests: s.tests, command: s.command, env: s.env, debian: s.debian}
	if s.firecracker {
		p.firecracker = firecracker
	}
	own := filepath.Join(work, s.name)
	err := os.Mkdir(own, 0o700)
	if err == nil {
		h.payload, err = p.write(ctx, own)
	}
	if err == nil {
		var code int
		if code, err = h.run(ctx, own); err == nil && code != 0 {
			err = fmt.Errorf("exit status %d", code)
		}
	}
	switch {
	case err != nil:
	case out.skipped > 0:
		err = fmt.Errorf("%d tests were skipped, which proves nothing", out.skipped)
	case out.passed == 0:
		err = errors.New("no test has run")
	}
	return verdict{name: s.name, err: err, took: time.Since(begin), tests: out.passed}
}

func report(verdicts []verdict, skipped []string, firecracker string) (int, error) {
	code := 0
	fmt.Println()
	for _, v := range verdicts {
		state := fmt.Sprintf("ok, %d tests", v.tests)
		if v.err != nil {
			state, code = "FAILED: "+v.err.Error(), 1
		}
		fmt.Printf("%-22s %5.0f s  %s\n", v.name, v.took.Seconds(), state)
	}
	for _, name := range skipped {
		fmt.Printf("%-22s         SKIPPED\n", name)
	}
	if firecracker == "" {
		fmt.Println("firecracker: SKIPPED, no binary")
	}
	return code, nil
}

// prefixer puts the suite's name before each line, and counts what tests say of themselves.
type prefixer struct {
	prefix string
	to     io.Writer
	lines  *sync.Mutex // of all suites together

	rest            []byte
	passed, skipped int
}

func (p *prefixer) Write(b []byte) (int, error) {
	p.lines.Lock()
	defer p.lines.Unlock()
	p.rest = append(p.rest, b...)
	for {
		line, rest, whole := bytes.Cut(p.rest, []byte("\n"))
		if !whole {
			return len(b), nil
		}
		p.rest = rest
		if err := p.line(line); err != nil {
			return 0, err
		}
	}
}

func (p *prefixer) line(line []byte) error {
	word := strings.TrimSpace(string(line))
	switch {
	case strings.HasPrefix(word, "--- PASS"):
		p.passed++
	case strings.HasPrefix(word, "--- SKIP"):
		p.skipped++
	case strings.HasPrefix(word, "=== PAUSE"), strings.HasPrefix(word, "=== CONT"), strings.HasPrefix(word, "=== NAME"):
		return nil
	}
	_, err := fmt.Fprintf(p.to, "%s%s\n", p.prefix, line)
	return err
}

func (p *prefixer) flush() {
	p.lines.Lock()
	defer p.lines.Unlock()
	if len(p.rest) > 0 {
		_ = p.line(p.rest)
	}
}
