package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"banger/internal/config"
	"banger/internal/server"
)

// Bounds of an orderly end. VMs run on whatever happens here.
const (
	operationsTime = 30 * time.Second
	requestsTime   = 5 * time.Second
)

// run is the daemon's life, from top to bottom; the deferred calls are its end.
func run(ctx context.Context, cfg *config.Config, f flags, stdio IO, ready *ready, o Options) (err error) {
	keep := func(fn func() error) { err = errors.Join(err, fn()) }
	m := machine{host: o.Host, apart: stdio.UID == 0}
	if m.host == nil {
		if m, err = openMachine(ctx, cfg, stdio.UID); err != nil {
			return err
		}
	}
	stateMode := fs.FileMode(0o700)
	if m.apart {
		stateMode = 0o711 // VMMs have uids of their own and reach their files through it
	}
	if err := ownDirectory(cfg.Paths.State, "STATE_DIR", stdio.UID, stateMode); err != nil {
		return err
	}
	// Before the lock: a client that is told of the lock waits for the socket in this directory.
	if err := ownDirectory(cfg.Paths.Runtime, "RUNTIME_DIR", stdio.UID, 0o700); err != nil {
		return err
	}
	held, err := lock(cfg.Paths.Lock())
	if err != nil {
		return err
	}
	defer keep(held.Close)
	out, err := logTo(cfg, f, stdio)
	if err != nil {
		return err
	}
	defer keep(out.Close)
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level(cfg.LogLevel)}))

	if m.alone != nil {
		log.Debug("without bangerd-root", "why", m.alone)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	parts, err := assemble(ctx, cfg, stdio, log, m, o)
	if err != nil {
		return err
	}
	defer keep(parts.close)
	srv := server.New(parts.services(cfg, m, stdio, log, stop))
	door, err := open(cfg, stdio, srv, log, stop)
	if err != nil {
		return err
	}
	defer keep(door.wait)
	ready.Serving()
	log.Info("serving", "socket", cfg.Paths.Socket(), "state", cfg.Paths.State, "pid", os.Getpid())

	if err := parts.reconcile(ctx); err != nil {
		log.Error("cannot take up all that an earlier daemon left", "error", err)
		srv.Trouble("cannot take up all that an earlier daemon left: %v", err)
	}
	srv.Ready()
	<-ctx.Done()

	ready.Stopping()
	log.Info("stopping; machines go on running, those in the pool end")
	srv.Drain()
	return errors.Join(
		door.hide(),
		bounded(operationsTime, "the pool", parts.vms.Pool.End),
		bounded(operationsTime, "operations", func(context.Context) error { parts.operations.Close(); return nil }),
		bounded(requestsTime, "requests", srv.Shutdown),
	)
}

// bounded runs fn and gives up on it after the time.
func bounded(d time.Duration, what string, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), d, fmt.Errorf("gave up waiting for %s after %s", what, d))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func logTo(cfg *config.Config, f flags, stdio IO) (io.WriteCloser, error) {
	if f.foreground {
		return nopCloser{stdio.Err}, nil
	}
	stderr := -1
	if f.readyFD >= 0 {
		stderr = 2 // a client has detached us: nobody else reads it
	}
	return openLog(cfg.Paths.DaemonLog(), logLimit, stderr)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func level(name string) slog.Level {
	var l slog.Level
	if err := l.UnmarshalText([]byte(name)); err != nil {
		return slog.LevelInfo // config lets no other names through
	}
	return l
}
