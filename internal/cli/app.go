package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"banger/api"
	"banger/client"
	"banger/internal/config"
	"banger/internal/system"
)

// app is what all commands share in one run.
type app struct {
	IO
	env map[string]string
	// soft ends at the first signal that nobody else takes, hard at the second: what must
	// be cleaned up after Ctrl-C is done under hard.
	soft, hard context.Context
	signals    *signals
	json       bool
	now        func() time.Time
	begun      time.Time

	// mu protects the following.
	mu     sync.Mutex
	cfg    *config.Config
	client *client.Client
}

func newApp(ctx context.Context, stdio IO) (*app, func()) {
	a := &app{IO: stdio, env: make(map[string]string), now: time.Now}
	a.begun = a.now()
	for _, kv := range stdio.Environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			a.env[k] = v
		}
	}
	var stop func()
	a.soft, a.hard, a.signals, stop = watchSignals(ctx)
	return a, stop
}

// config reads the configuration, once.
func (a *app) config() (*config.Config, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cfg != nil {
		return a.cfg, nil
	}
	cfg, err := config.Load(config.Inputs{Environ: a.Environ, UID: a.UID})
	if ce := (*config.Error)(nil); errors.As(err, &ce) {
		e := api.Errorf(api.CodeInvalid, "%s", ce.Message)
		e.Hint = ce.Hint
		return nil, e
	}
	if err != nil {
		return nil, err
	}
	a.cfg = cfg
	return cfg, nil
}

// daemon is the way to the daemon, which is started if it does not run.
func (a *app) daemon() (*client.Client, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client == nil {
		a.client = client.New(a.clientOptions(cfg))
	}
	return a.client, nil
}

// runningDaemon is the way to the daemon if one runs; it is not started.
func (a *app) runningDaemon() (*client.Client, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	o := a.clientOptions(cfg)
	o.NoStart = true
	return client.New(o), nil
}

func (a *app) clientOptions(cfg *config.Config) client.Options {
	unit, own := "", false
	switch dir := a.userUnits(); {
	case system.Runs(cfg):
		unit = system.DaemonUnit
	case system.RunsFor(cfg, dir):
		unit, own = system.DaemonUnit, true
	}
	return client.Options{
		Unit: unit, UserUnit: own,
		Socket:    cfg.Paths.Socket(),
		DaemonLog: cfg.Paths.DaemonLog(),
		Notice:    func(text string) { fmt.Fprintln(a.Err, "banger: "+text) },
	}
}

func (a *app) closeClient() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.client != nil {
		_ = a.client.Close() // idle connections of a process that ends
	}
}

// note tells a person something; programs that read stderr see it as well.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.Err, format+"\n", args...)
}

// terminal is the descriptor behind a stream if it is a terminal.
func terminal(stream any) (fd int, ok bool) {
	f, isFile := stream.(*os.File)
	if !isFile {
		return 0, false
	}
	return int(f.Fd()), term.IsTerminal(int(f.Fd()))
}

func isTerminal(stream any) bool {
	_, ok := terminal(stream)
	return ok
}

// printError writes the one sentence, and the line that tells what to do about it.
func (a *app) printError(err error) {
	e := api.AsError(err)
	if a.json {
		_ = writeJSONLine(a.Err, api.ErrorBody{Error: *e})
		return
	}
	writeError(a.Err, e)
}

func writeError(w io.Writer, e *api.Error) {
	fmt.Fprintf(w, "banger: %s\n", printableLines(e.Message))
	if e.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", printableLines(e.Hint))
	}
	if e.Code == api.CodeInternal && e.OperationID != "" {
		fmt.Fprintf(w, "hint: banger daemon logs | grep %s\n", e.OperationID)
	}
}
