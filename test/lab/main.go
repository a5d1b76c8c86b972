// Program lab runs a command in the laboratory: a Debian host with KVM, device-mapper and loadable modules, which is itself a
// virtual machine of an emulating QEMU, so that it can be had where none of the three exists. Each run is a new host on a
// throw-away disk, with no network but its own loopback: nothing in it reaches this machine.
//
// The payload goes in as a tar on a read-only disk, laid out as the project is and unpacked to /lab: bin/, test binaries of
// packages in their folders, prepared images in .cache/test-state. Its output comes back as it is written, its exit status is the
// program's. `scripts/lab` builds what it needs and runs it; `make lab` runs the suites, which suites.go lists. Nobody may import it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
	}
	os.Exit(code)
}

// Exit codes of the laboratory itself; every other one is the payload's.
const (
	codeBroken = 125 // no host, or no payload
	codeLate   = 124 // as timeout(1)
)

func run(ctx context.Context, args []string) (int, error) {
	if len(args) > 0 && args[0] == "suites" {
		return runSuites(ctx, args[1:])
	}
	h := labHost{stdout: os.Stdout, stderr: os.Stderr}
	var p payload
	flags := flag.NewFlagSet("lab", flag.ContinueOnError)
	flags.StringVar(&h.dir, "host", ".cache/lab", "`DIR` of the lab host's files, made by scripts/lab-host")
	flags.BoolVar(&h.systemd, "systemd", false, "start the host with systemd, which takes three times as long: for units, users' sessions, reboots")
	flags.IntVar(&h.cpus, "cpus", 2, "CPUs of the host")
	flags.StringVar(&h.memory, "memory", "4G", "memory of the host")
	flags.StringVar(&h.console, "console", "", "keep the host's console in this `FILE`")
	flags.DurationVar(&h.timeout, "timeout", 15*time.Minute, "end the host after this time, with 124")
	flags.StringVar(&h.results, "out", "", "unpack what the payload leaves in /results into this `DIR`")
	flags.BoolVar(&p.debian, "debian", false, "carry the prepared systemd image too, not only the minimal one")
	flags.StringVar(&p.firecracker, "firecracker-dir", "", "carry firecracker and jailer from `DIR`")
	flags.Var((*list)(&p.tests), "test", "build and carry the tests of this `PACKAGE` (./internal/disk): it lies in its folder, as NAME.test; may be repeated")
	flags.Var((*list)(&p.add), "add", "carry this `PATH` (or PATH=NAME), to /lab/NAME; may be repeated")
	flags.Var((*list)(&p.env), "env", "set `NAME=VALUE` for the payload; may be repeated")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0, nil
		}
		return 2, nil // flag has said why
	}
	p.command = flags.Args()
	if len(p.command) == 0 {
		return 2, errors.New("no command: lab [OPTION...] -- COMMAND [ARGUMENT...], or lab suites [OPTION...] [SUITE...]")
	}
	work, err := os.MkdirTemp("", "lab")
	if err != nil {
		return codeBroken, err
	}
	defer os.RemoveAll(work)
	if h.payload, err = p.write(ctx, work); err != nil {
		return codeBroken, err
	}
	return h.run(ctx, work)
}

// list is a flag that may be given more than once.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }
