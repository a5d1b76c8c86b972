package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Config is the configuration of one run of banger or bangerd. Every value is set.
type Config struct {
	Paths Paths
	// Home is that of the user whom this process belongs to; "/" where there is none.
	Home   string
	Image  string
	Kernel string
	CPUs   int
	// Memory, DiskSize and RootSize are bytes; RootSize 0 means 8 GiB, or the image's size where that is more.
	Memory, DiskSize, RootSize int64
	Net                        string // "bridge", "user" or "none"
	Hypervisor                 string // "auto", "firecracker" or "qemu"
	Accel                      string // "auto", "kvm" or "tcg"
	DiskDriver                 string // "qcow2" or "clone"
	Bridge                     string
	Subnet                     string // CIDR, IPv4
	DNSAddress                 string // "bridge", ADDRESS or ADDRESS:PORT
	ReadyTimeout, StopTimeout  time.Duration
	IdleSuspend                time.Duration // 0 is never
	OnHostShutdown             string        // "suspend" or "stop"
	ShutdownTimeout            time.Duration // for all VMs together
	UIDBase, UIDCount          int
	Pool                       int
	PoolReserve                int64 // bytes; 0 means an eighth of the host's memory
	SessionLog                 int64 // bytes of each stream of a session that its guest keeps
	QEMUBinary                 string
	FirecrackerBin             string
	JailerBin                  string // "auto" is the one beside FirecrackerBin
	Mirror                     string // URL, or "host"
	LogLevel                   string
	GitIdentity                string // "host" or "none"
	FileSync                   []FileSync

	sources map[string]source
	// UnknownEnv are variables of the environment that begin with BANGER_ and mean nothing to banger, sorted.
	UnknownEnv []string
}

// SourceKind is where a value comes from, the strongest first.
type SourceKind string

// The sources.
const (
	FromFlag    SourceKind = "flag"
	FromEnv     SourceKind = "environment"
	FromFile    SourceKind = "file"
	FromDerived SourceKind = "derived"
)

type source struct {
	kind   SourceKind
	detail string
}

// Value is a key as it stands, for `banger config show`.
type Value struct {
	Key    string     `json:"key"`
	Value  string     `json:"value"`
	Source SourceKind `json:"source"`
	// Detail is the flag, variable or file that the value was taken from, or why it was derived so.
	Detail string `json:"detail"`
	Env    string `json:"env"`
	Help   string `json:"help"`
}

// Values lists every key with its value and its source.
func (c *Config) Values() []Value {
	var out []Value
	for _, k := range Keys() {
		s := c.sources[k.Name]
		out = append(out, Value{Key: k.Name, Value: k.get(c), Source: s.kind, Detail: s.detail, Env: k.Env(), Help: k.Help})
	}
	return out
}

// Explicit reports whether somebody set the key: by flag, environment or file.
func (c *Config) Explicit(key string) bool {
	s, ok := c.sources[key]
	return ok && s.kind != FromDerived
}

// Error is a mistake in the configuration.
type Error struct {
	Message string
	// Hint is what to do about it; may be empty.
	Hint string
}

func (e *Error) Error() string { return e.Message }

// Inputs is all that the configuration is made from.
type Inputs struct {
	// Flags are values given on the command line, by key.
	Flags map[string]string
	// Environ is as os.Environ gives it.
	Environ []string
	// UID decides whose directories are used: 0 for the system's.
	UID int
	// Host answers questions about the machine; nil means the real one.
	Host *Host
}

// Load makes the configuration: flag over environment over file over derived. Errors are *Error.
func Load(in Inputs) (*Config, error) {
	if in.Host == nil {
		in.Host = realHost()
	}
	env := environMap(in.Environ)
	c := &Config{sources: make(map[string]source)}
	c.derive(in.UID, env, in.Host)
	derivedState := c.Paths.State
	given := func(k Key) (string, source, bool) {
		if v, ok := in.Flags[k.Name]; ok {
			return v, source{FromFlag, "--" + strings.ReplaceAll(k.Name, "_", "-")}, true
		}
		// An empty variable is as good as none: that is how scripts unset one.
		if v := env[k.Env()]; v != "" {
			return v, source{FromEnv, k.Env()}, true
		}
		return "", source{}, false
	}
	var file map[string]fileValue
	for _, pass := range []bool{true, false} { // config_dir first: it says where the file is
		for _, k := range Keys() {
			if k.notInFile != pass {
				continue
			}
			text, src, ok := given(k)
			if !ok {
				fv, inFile := file[k.Name]
				if !inFile {
					continue
				}
				text, src = fv.text, source{FromFile, fv.where}
			}
			set := func() error { return k.set(c, text) }
			if tables := file[k.Name].tables; tables != nil && src.kind == FromFile {
				set = func() error { return k.setTables(c, tables) }
			}
			if err := set(); err != nil {
				return nil, &Error{Message: fmt.Sprintf("%s (from %s): %v", k.Name, src.detail, err), Hint: "banger config show"}
			}
			c.sources[k.Name] = src
		}
		if pass {
			var err error
			if file, err = readFile(c.Paths.ConfigFile()); err != nil {
				return nil, err
			}
		}
	}
	c.followState(derivedState)
	c.UnknownEnv = unknownEnv(env)
	return c, c.Paths.check()
}

func environMap(environ []string) map[string]string {
	m := make(map[string]string, len(environ))
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			m[k] = v
		}
	}
	return m
}

// unknownEnv finds mistyped variables. Those of the tests are let be.
func unknownEnv(env map[string]string) []string {
	known := make(map[string]bool)
	for _, k := range Keys() {
		known[k.Env()] = true
	}
	var out []string
	for name := range env {
		if strings.HasPrefix(name, "BANGER_") && !known[name] && !strings.HasPrefix(name, "BANGER_TEST_") {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
