package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// auto leaves a value to the daemon.
const auto = "auto"

// Key is one thing that can be configured.
type Key struct {
	// Name is how it stands in config.toml.
	Name string
	Help string
	// notInFile is for what must be known before the file can be read.
	notInFile bool
	set       func(c *Config, text string) error
	// setTables is for what is written as tables in config.toml, and nowhere else; set is not called then.
	setTables func(c *Config, tables []map[string]any) error
	get       func(c *Config) string
}

// Env is the key's environment variable.
func (k Key) Env() string {
	return "BANGER_" + strings.ToUpper(strings.ReplaceAll(k.Name, ".", "_"))
}

// Keys returns every key, in the order of the documents.
func Keys() []Key {
	return []Key{
		text("image", "image of a VM that names none", func(c *Config) *string { return &c.Image }, notEmpty),
		text("kernel", "kernel of a VM that names none", func(c *Config) *string { return &c.Kernel }, notEmpty),
		number("cpus", "virtual CPUs of a VM, 1 to 64", 1, 64, func(c *Config) *int { return &c.CPUs }),
		size("memory", "memory of a VM", func(c *Config) *int64 { return &c.Memory }),
		size("disk_size", "work disk of a VM, mounted at /root and /home", func(c *Config) *int64 { return &c.DiskSize }),
		size("root_size", "root disk of a VM; \"auto\" is 8G, or its image's size where that is more", func(c *Config) *int64 { return &c.RootSize }),
		text("net", "network of a VM: bridge, user or none", func(c *Config) *string { return &c.Net }, oneOf("bridge", "user", "none")),
		orNever("idle_suspend", "suspend a VM that was idle for so long; 0 is never", func(c *Config) *time.Duration { return &c.IdleSuspend }),
		text("hypervisor", "what runs a VM that asks for none: firecracker, qemu, or auto, the best that works here", func(c *Config) *string { return &c.Hypervisor }, oneOf("auto", "firecracker", "qemu")),
		text("on_host_shutdown", "what becomes of running VMs when the host goes down: suspend or stop (see banger system install)", func(c *Config) *string { return &c.OnHostShutdown }, oneOf("suspend", "stop")),
		duration("host_shutdown_timeout", "how long that may take, all VMs together, before they are forced", func(c *Config) *time.Duration { return &c.ShutdownTimeout }),
		text("accel", "how guests are run: auto, kvm or tcg", func(c *Config) *string { return &c.Accel }, oneOf("auto", "kvm", "tcg")),
		text("disk_driver", "copy-on-write disks: qcow2 or clone", func(c *Config) *string { return &c.DiskDriver }, oneOf("qcow2", "clone")),
		text("bridge", "name of the bridge that VMs hang on", func(c *Config) *string { return &c.Bridge }, interfaceName),
		text("subnet", "addresses of the VMs on the bridge, /8 to /29", func(c *Config) *string { return &c.Subnet }, subnet),
		text("dns_address", "where the daemon answers NAME.vm, ADDRESS, ADDRESS:PORT or :PORT; \"bridge\" is the bridge's own address", func(c *Config) *string { return &c.DNSAddress }, dnsAddress),
		duration("ready_timeout", "how long a guest may take to get ready", func(c *Config) *time.Duration { return &c.ReadyTimeout }),
		duration("stop_timeout", "how long a guest may take to stop before it is forced", func(c *Config) *time.Duration { return &c.StopTimeout }),
		directory("state_dir", "where everything is kept", func(c *Config) *string { return &c.Paths.State }, false),
		directory("runtime_dir", "where bangerd.sock is", func(c *Config) *string { return &c.Paths.Runtime }, false),
		directory("ssh_dir", "where the ssh key for guests and known_hosts are", func(c *Config) *string { return &c.Paths.SSH }, false),
		directory("config_dir", "where config.toml is", func(c *Config) *string { return &c.Paths.Config }, true),
		directory("root_socket", "where bangerd-root answers a daemon that is not root", func(c *Config) *string { return &c.Paths.RootSocket }, false),
		number("uid_base", "first host uid for VMMs, where they have uids of their own", 1000, 1<<31-1, func(c *Config) *int { return &c.UIDBase }),
		number("uid_count", "how many host uids there are for VMMs", 1, 1<<20, func(c *Config) *int { return &c.UIDCount }),
		number("pool", "how many clones of the default image and shape wait to be taken, already running; 0 is none", 0, 64, func(c *Config) *int { return &c.Pool }),
		size("pool_reserve", "memory that must stay available on the host, or the pool is given up; \"auto\" is an eighth of it", func(c *Config) *int64 { return &c.PoolReserve }),
		size("session_log", "what is kept of each stream of a session, in the guest", func(c *Config) *int64 { return &c.SessionLog }),
		text("git_identity", "whose user.name and user.email commits in a guest have where nothing else is set: host or none", func(c *Config) *string { return &c.GitIdentity }, oneOf("host", "none")),
		fileSync("file_sync", "files of this host that are put into guests at each start"),
		text("qemu_binary", "the QEMU to run: a name looked up in PATH, or a path", func(c *Config) *string { return &c.QEMUBinary }, notEmpty),
		text("firecracker_bin", "the Firecracker to run: a name looked up in PATH, or a path", func(c *Config) *string { return &c.FirecrackerBin }, notEmpty),
		text("jailer_bin", "Firecracker's jailer: a name looked up in PATH, or a path; \"auto\" is the one beside Firecracker", func(c *Config) *string { return &c.JailerBin }, notEmpty),
		text("mirror", "Debian mirror for builds; \"host\" is the one that this host's apt uses", func(c *Config) *string { return &c.Mirror }, notEmpty),
		text("log_level", "what the daemon logs: debug, info, warn or error", func(c *Config) *string { return &c.LogLevel }, oneOf("debug", "info", "warn", "error")),
	}
}

func text(name, help string, field func(*Config) *string, check func(string) error) Key {
	return Key{Name: name, Help: help,
		set: func(c *Config, s string) error {
			if err := check(s); err != nil {
				return err
			}
			*field(c) = s
			return nil
		},
		get: func(c *Config) string { return *field(c) },
	}
}

func number(name, help string, least, most int, field func(*Config) *int) Key {
	return Key{Name: name, Help: help,
		set: func(c *Config, s string) error {
			n, err := strconv.Atoi(s)
			if err != nil || n < least || n > most {
				return fmt.Errorf("%q is not a number from %d to %d", s, least, most)
			}
			*field(c) = n
			return nil
		},
		get: func(c *Config) string { return strconv.Itoa(*field(c)) },
	}
}

func size(name, help string, field func(*Config) *int64) Key {
	return Key{Name: name, Help: help,
		set: func(c *Config, s string) error {
			if s == auto && (name == "root_size" || name == "pool_reserve") {
				*field(c) = 0
				return nil
			}
			n, err := ParseSize(s)
			if err != nil {
				return err
			}
			*field(c) = n
			return nil
		},
		get: func(c *Config) string {
			if *field(c) == 0 {
				return auto
			}
			return exactSize(*field(c))
		},
	}
}

func duration(name, help string, field func(*Config) *time.Duration) Key {
	return Key{Name: name, Help: help,
		set: func(c *Config, s string) error {
			d, err := ParseDuration(s)
			if err != nil {
				return err
			}
			*field(c) = d
			return nil
		},
		get: func(c *Config) string { return field(c).String() },
	}
}

// orNever is a duration that may also be 0.
func orNever(name, help string, field func(*Config) *time.Duration) Key {
	k := duration(name, help, field)
	parse := k.set
	k.set = func(c *Config, s string) error {
		if strings.TrimSpace(s) == "0" {
			*field(c) = 0
			return nil
		}
		return parse(c, s)
	}
	return k
}

func directory(name, help string, field func(*Config) *string, notInFile bool) Key {
	return Key{Name: name, Help: help, notInFile: notInFile,
		set: func(c *Config, s string) error {
			if !filepath.IsAbs(s) {
				return fmt.Errorf("%q is not an absolute path", s)
			}
			*field(c) = filepath.Clean(s)
			return nil
		},
		get: func(c *Config) string { return *field(c) },
	}
}

func notEmpty(s string) error {
	if strings.TrimSpace(s) == "" {
		return fmt.Errorf("it is empty")
	}
	return nil
}

func oneOf(words ...string) func(string) error {
	return func(s string) error {
		if slices.Contains(words, s) {
			return nil
		}
		last := len(words) - 1
		return fmt.Errorf("%q is neither %s nor %s", s, strings.Join(words[:last], ", "), words[last])
	}
}

// interfaceName holds a name to what Linux takes (IFNAMSIZ-1 bytes, no slash, no space).
func interfaceName(s string) error {
	if s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/: \t\n%") {
		return fmt.Errorf("%q is not a name for a network interface (at most 15 letters, no space, '/' or ':')", s)
	}
	return nil
}

func subnet(s string) error {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 29 {
		return fmt.Errorf("%q is not an IPv4 subnet from /8 to /29, such as 172.30.0.0/16", s)
	}
	if p != p.Masked() {
		return fmt.Errorf("%q has bits set beyond its prefix; the subnet is %s", s, p.Masked())
	}
	return nil
}

func dnsAddress(s string) error {
	if s == "bridge" {
		return nil
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return nil
	}
	if strings.HasPrefix(s, ":") {
		s = "0.0.0.0" + s
	}
	if _, err := netip.ParseAddrPort(s); err == nil {
		return nil
	}
	return fmt.Errorf("%q is none of \"bridge\", ADDRESS, ADDRESS:PORT and :PORT", s)
}
