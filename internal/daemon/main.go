// Package daemon is the wiring of bangerd: it makes each part once, hands it to those
// that need it, serves, and ends everything in reverse. It owns the process itself (its
// directories, lock, socket, log, signals) and no behaviour of VMs. Only cmd/bangerd and the
// scenario tests import it.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"banger/api"
	"banger/internal/config"
	"banger/internal/network/sieve"
)

// IO is what a run of bangerd is connected to.
type IO struct {
	Out, Err io.Writer
	// Environ is as os.Environ gives it.
	Environ []string
	UID     int
}

// OS is the IO of this process.
func OS() IO { return IO{Out: os.Stdout, Err: os.Stderr, Environ: os.Environ(), UID: os.Geteuid()} }

// How the daemon's garbage is collected. What it keeps is a few megabytes, so that by Go's own setting a start of a VM was collected
// several times, which was a third of the daemon's share of it; the limit is where that thrift sets in again.
const (
	gcPercent  = 400
	gcMaxBytes = 56 << 20
)

// Main runs the daemon until it is told to end, and returns the exit code of the process.
func Main(ctx context.Context, args []string, stdio IO) int {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(gcMaxBytes)
	return Run(ctx, args, stdio, Options{})
}

// flags are what only the command line can say; the rest is configuration.
type flags struct {
	config     map[string]string
	foreground bool
	readyFD    int
}

// Run is Main with parts replaced by those of a test. It ends on SIGTERM, SIGINT or the end of
// ctx; a second signal ends the process at once, which costs no VM anything.
func Run(ctx context.Context, args []string, stdio IO, o Options) int {
	if len(args) > 0 && args[0] == sieve.Name {
		return sieve.Main(args[1:], stdio.Err)
	}
	// From birth: no file or socket of ours is open to others for even a moment.
	syscall.Umask(0o077)
	f, err := parse(args, stdio.Err)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2
	}
	ready := newReady(f.readyFD)
	defer ready.Close()
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop)
	cfg, err := config.Load(config.Inputs{Flags: f.config, Environ: stdio.Environ, UID: stdio.UID})
	if err == nil {
		err = run(ctx, cfg, f, stdio, ready, o)
	}
	if err == nil {
		return 0
	}
	e := plain(err)
	ready.Refused(e)
	fmt.Fprintf(stdio.Err, "bangerd: %s\n", e.Message)
	if e.Hint != "" {
		fmt.Fprintf(stdio.Err, "  → %s\n", e.Hint)
	}
	return 1
}

// plain gives every error a code: the configuration's have none of their own.
func plain(err error) *api.Error {
	var mistake *config.Error
	if errors.As(err, &mistake) {
		return api.Errorf(api.CodeInvalid, "%s", mistake.Message).WithHint("%s", mistake.Hint)
	}
	return api.AsError(err)
}

func parse(args []string, out io.Writer) (flags, error) {
	f := flags{config: make(map[string]string)}
	set := flag.NewFlagSet("bangerd", flag.ContinueOnError)
	set.SetOutput(out)
	set.BoolVar(&f.foreground, "foreground", false, "log to stderr instead of the state directory's bangerd.log")
	set.IntVar(&f.readyFD, "ready-fd", -1, "descriptor on which to say that we serve; for the client that starts us")
	for _, k := range config.Keys() {
		set.Func(strings.ReplaceAll(k.Name, "_", "-"), k.Help, func(v string) error {
			f.config[k.Name] = v
			return nil
		})
	}
	if err := set.Parse(args); err != nil {
		return f, err
	}
	if set.NArg() > 0 {
		err := fmt.Errorf("unexpected argument %q", set.Arg(0))
		fmt.Fprintln(out, "bangerd:", err)
		return f, err
	}
	return f, nil
}
