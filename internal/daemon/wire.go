package daemon

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"io"
	"log/slog"
	"strings"
	"time"

	"banger/api"
	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/image"
	"banger/internal/operation"
	"banger/internal/server"
	"banger/internal/store"
	"banger/internal/vm"
)

// Options are the parts that a scenario test replaces. No user can.
type Options struct {
	Host       host.Host
	Hypervisor func(*config.Config, host.Host, *slog.Logger) (hypervisor.Hypervisor, error)
}

// parts are all that the daemon is made of, each made once.
type parts struct {
	operations *operation.Registry
	images     *image.Service
	vms        *vm.Service
	hypervisor hypervisor.Hypervisor
	startedAt  time.Time
	// undo ends what was begun, in reverse.
	undo []func() error
}

func (p *parts) onClose(fn func() error) { p.undo = append(p.undo, fn) }

func (p *parts) close() error {
	var errs []error
	for i := len(p.undo) - 1; i >= 0; i-- {
		errs = append(errs, p.undo[i]())
	}
	return errors.Join(errs...)
}

func assemble(ctx context.Context, cfg *config.Config, stdio IO, log *slog.Logger, o Options) (_ *parts, err error) {
	now := time.Now
	p := &parts{startedAt: now()}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	st, err := store.Open(ctx, cfg.Paths.Database(), now)
	if err != nil {
		return nil, err
	}
	p.onClose(st.Close)
	p.operations = operation.NewRegistry(now, func() string { return newID(rand.Reader) }, log)
	p.vms = &vm.Service{}
	p.images = &image.Service{}
	return p, nil
}

func (p *parts) reconcile(ctx context.Context) error { return nil }

func (p *parts) services(cfg *config.Config, stdio IO, log *slog.Logger, stop func()) server.Services {
	return server.Services{
		VMs: p.vms, Images: p.images, Operations: p.operations, Hypervisor: p.hypervisor, Config: cfg,
		Doctor: func(context.Context) []api.Check { return nil },
		Stop:   stop, Log: log, UID: stdio.UID, StartedAt: p.startedAt,
	}
}

// newID is twelve characters of a-z and 2-7.
func newID(random io.Reader) string {
	var b [8]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		panic(err) // crypto/rand does not fail
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))[:12]
}
