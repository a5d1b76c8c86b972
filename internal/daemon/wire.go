package daemon

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger/api"
	"banger/internal/backend"
	"banger/internal/config"
	"banger/internal/doctor"
	"banger/internal/guest/ssh"
	"banger/internal/host"
	"banger/internal/hypervisor"
	"banger/internal/image"
	"banger/internal/layer"
	"banger/internal/network"
	"banger/internal/network/sieve"
	"banger/internal/operation"
	"banger/internal/server"
	"banger/internal/session"
	"banger/internal/store"
	"banger/internal/template"
	"banger/internal/vm"
)

// Options are the parts that a scenario test replaces. No user can.
type Options struct {
	Host host.Host
	// Hypervisors, the better ones first.
	Hypervisors func(*config.Config, host.Host, *slog.Logger) ([]hypervisor.Hypervisor, error)
	// Memory is how the host is off for memory.
	Memory func() template.Memory
}

// parts are all that the daemon is made of, each made once.
type parts struct {
	host       host.Host
	operations *operation.Registry
	images     *image.Service
	templates  *template.Service
	network    *network.Network
	vms        *vm.Service
	sessions   *session.Service
	backends   backend.Set
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

func assemble(ctx context.Context, cfg *config.Config, stdio IO, log *slog.Logger, m machine, o Options) (_ *parts, err error) {
	now := time.Now
	p := &parts{startedAt: now(), host: m.host}
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
	dieAt(stdio.Environ, p.operations, log)
	if p.backends, err = backends(cfg, p.host, log, o); err != nil {
		return nil, err
	}
	if p.network, err = makeNetwork(cfg, p.host, log); err != nil {
		return nil, err
	}
	p.onClose(p.network.Close)
	p.images = image.New(image.Options{
		Host: p.host, Paths: cfg.Paths, Store: st, AgentPath: agentPath(), Mirror: mirror(cfg),
		Env: proxies(stdio.Environ), UID: stdio.UID, Now: now, Log: log,
	})
	templates := template.Options{
		Store: st, Host: p.host, Backends: p.backends, Network: p.network, Paths: cfg.Paths, Log: log, Now: now,
		NewID: func() string { return newID(rand.Reader) }, ReadyTimeout: cfg.ReadyTimeout,
		AuthorizedKeys: func() ([]string, error) {
			key, err := ssh.EnsureKey(cfg.Paths.SSHKey())
			return []string{key}, err
		},
	}
	if m.apart {
		templates.UID = cfg.UIDBase + cfg.UIDCount // the one after those of VMs
	}
	p.templates = template.New(templates)
	vms := vm.Options{
		Store: st, Operations: p.operations, Host: p.host, Backends: p.backends, Network: p.network,
		Images: p.images, KnownHosts: ssh.KnownHosts{Path: cfg.Paths.KnownHosts()}, Paths: cfg.Paths, Log: log, Now: now,
		Random: random, Templates: p.templates,
		Layers: layer.New(layer.Options{Store: st, Paths: cfg.Paths, Host: p.host}),
		Defaults: api.VMSpec{
			Image: cfg.Image, Kernel: cfg.Kernel, CPUs: cfg.CPUs, MemoryBytes: cfg.Memory,
			DiskBytes: cfg.DiskSize, RootBytes: cfg.RootSize, Net: api.NetKind(cfg.Net), IdleSuspendMS: cfg.IdleSuspend.Milliseconds(),
		},
		ReadyTimeout: cfg.ReadyTimeout, StopTimeout: cfg.StopTimeout,
		Shutdown: vm.Shutdown{Suspend: cfg.OnHostShutdown == "suspend", Timeout: cfg.ShutdownTimeout},
		Clones:   vm.Clones{Size: cfg.Pool, Reserve: cfg.PoolReserve, Armed: cfg.Explicit("pool")}, Memory: o.Memory, SessionLog: cfg.SessionLog,
		FileSync: cfg.FileSync, Home: cfg.Home,
	}
	if m.apart {
		vms.UIDBase, vms.UIDCount = cfg.UIDBase, cfg.UIDCount
	}
	p.vms = vm.New(vms)
	p.onClose(func() error { p.vms.Close(); return nil })
	p.sessions = sessions(st, p.vms, cfg, log)
	p.onClose(func() error { p.sessions.Close(); return nil })
	return p, nil
}

func sessions(st *store.Store, vms *vm.Service, cfg *config.Config, log *slog.Logger) *session.Service {
	return session.New(session.Options{
		Store: st, VM: vms.Records.Get, Events: vms.Records.Events, Wake: vms.Records.Wake, Log: log, Now: time.Now, LogLimit: cfg.SessionLog,
		NewID: func() string { return newID(rand.Reader) },
		Reach: func(ctx context.Context, ref string) (session.Guest, error) {
			vm, agent, why, end, err := vms.Guests.Reach(ctx, ref)
			return session.Guest{VM: vm, Agent: agent, Why: why, Close: end}, err
		},
		Look: func(ctx context.Context, ref string) (session.Guest, error) {
			vm, agent, err := vms.Guests.Look(ctx, ref)
			return session.Guest{VM: vm, Agent: agent, Why: func(err error) error { return err }, Close: func() {}}, err
		},
	})
}

func makeNetwork(cfg *config.Config, h host.Host, log *slog.Logger) (*network.Network, error) {
	subnet, err := netip.ParsePrefix(cfg.Subnet)
	if err != nil {
		return nil, api.Errorf(api.CodeInvalid, "subnet %q is none: %w", cfg.Subnet, err)
	}
	dns, err := network.ParseDNSAddress(cfg.DNSAddress)
	if err != nil {
		return nil, err
	}
	return network.New(network.Options{
		Host: h, Paths: cfg.Paths, Bridge: cfg.Bridge, Subnet: subnet, SubnetFixed: cfg.Explicit("subnet"),
		// The filter runs under the VM's uid, which may not reach bangerd by its path.
		DNSAddress: dns, UserFilter: []string{"/proc/self/exe", sieve.Name}, Log: log, Linger: linger,
	}), nil
}

// linger is how long the bridge outlives the last guest.
const linger = 5 * time.Second

// mirror is empty where the host's own apt sources serve.
func mirror(cfg *config.Config) string {
	if cfg.Mirror == "host" {
		return ""
	}
	return cfg.Mirror
}

// agentPath is the agent that goes into guests: it lies beside bangerd.
func agentPath() string {
	self, err := os.Executable()
	if err != nil {
		return "banger-agent"
	}
	return filepath.Join(filepath.Dir(self), "banger-agent")
}

// proxies are the variables that programs which download need from our environment.
func proxies(environ []string) []string {
	var out []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		switch strings.ToLower(name) {
		case "http_proxy", "https_proxy", "ftp_proxy", "no_proxy":
			out = append(out, kv)
		}
	}
	return out
}

// reconcile takes up what an earlier daemon left. One part's trouble keeps no other from it.
func (p *parts) reconcile(ctx context.Context) error {
	return errors.Join(p.images.Reconcile(ctx), p.sessions.Follow(ctx), p.vms.Reconcile(ctx), p.templates.Reconcile(ctx, p.vms.Records.TemplateInUse(ctx)))
}

func (p *parts) services(cfg *config.Config, m machine, stdio IO, log *slog.Logger, stop func()) server.Services {
	return server.Services{
		VMs: p.vms, Sessions: p.sessions, Images: p.images, Operations: p.operations, Backends: p.backends, Config: cfg,
		Doctor: func(ctx context.Context) []api.Check { return doctor.Run(ctx, p.doctorOptions(cfg, m, stdio)) },
		Stop:   stop, Log: log, UID: stdio.UID, Rights: m.rights(stdio.UID), Unit: unit(stdio.Environ), StartedAt: p.startedAt,
	}
}

func (p *parts) doctorOptions(cfg *config.Config, m machine, stdio IO) doctor.Options {
	return doctor.Options{
		Config: cfg, Host: p.host, Backends: p.backends, Network: p.network.Conflicts, Rights: m.rights(stdio.UID), Refused: m.refused(),
		Machine: doctor.ThisMachine(),
		Catalogue: func(ctx context.Context) ([]api.Image, []api.Kernel, error) {
			images, err := p.images.Images(ctx)
			if err != nil {
				return nil, nil, err
			}
			kernels, err := p.images.Kernels(ctx)
			return images, kernels, err
		},
	}
}

// random never fails (crypto/rand).
func random(b []byte) { _, _ = rand.Read(b) }

// newID is twelve characters of a-z and 2-7.
func newID(random io.Reader) string {
	var b [8]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		panic(err) // crypto/rand does not fail
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))[:12]
}
