package config

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Host is what the derived values depend on.
type Host struct {
	CPUs        int
	MemoryBytes int64
	// Home is the home directory that the user database gives for a uid; empty if none.
	Home func(uid int) string
	// OwnedDir reports whether path is a directory that belongs to uid (not a link to one).
	OwnedDir func(path string, uid int) bool
	// Exists reports whether there is anything at path.
	Exists func(path string) bool
}

func realHost() *Host {
	h := &Host{CPUs: runtime.NumCPU()}
	var si syscall.Sysinfo_t
	if syscall.Sysinfo(&si) == nil {
		h.MemoryBytes = int64(si.Totalram) * int64(si.Unit)
	}
	h.Home = func(uid int) string {
		u, err := user.LookupId(strconv.Itoa(uid))
		if err != nil {
			return ""
		}
		return u.HomeDir
	}
	h.OwnedDir = func(path string, uid int) bool {
		fi, err := os.Lstat(path)
		if err != nil || !fi.IsDir() {
			return false
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		return ok && int(st.Uid) == uid
	}
	h.Exists = func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	}
	return h
}

// derive fills in every value as it is when nobody says otherwise.
func (c *Config) derive(uid int, env map[string]string, h *Host) {
	put := func(key, why string) { c.sources[key] = source{FromDerived, why} }
	for _, k := range Keys() {
		put(k.Name, "default")
	}
	c.Image, c.Kernel = "debian", "debian"
	c.CPUs = max(1, min(2, h.CPUs))
	put("cpus", fmt.Sprintf("this host has %d", h.CPUs))
	c.Memory = GiB
	if h.MemoryBytes > 0 && h.MemoryBytes < 7*GiB {
		c.Memory = 512 * MiB
	}
	put("memory", fmt.Sprintf("this host has %s", FormatSize(h.MemoryBytes)))
	c.DiskSize = 8 * GiB
	c.Net = "user"
	put("net", "not root")
	if uid == 0 {
		c.Net = "bridge"
		put("net", "root")
	}
	c.Hypervisor, c.FirecrackerBin, c.JailerBin = auto, "firecracker", auto
	c.Accel, c.DiskDriver, c.Mirror, c.DNSAddress = auto, "qcow2", "host", "bridge"
	c.Bridge, c.Subnet = "banger0", "172.30.0.0/16"
	c.OnHostShutdown, c.ShutdownTimeout = "suspend", 90*time.Second
	c.ReadyTimeout, c.StopTimeout = 120*time.Second, 10*time.Second
	c.UIDBase, c.UIDCount = 1_900_000_000, 4096
	c.Pool = 2
	c.SessionLog = 16 * MiB
	c.GitIdentity = "host"
	c.QEMUBinary, c.LogLevel = "qemu-system-x86_64", "info"
	if runtime.GOARCH == "arm64" {
		c.QEMUBinary = "qemu-system-aarch64"
	}
	c.derivePaths(uid, env, h, put)
}

// derivePaths follows the XDG base directory specification 0.8: a relative path in a
// variable is invalid and ignored.
func (c *Config) derivePaths(uid int, env map[string]string, h *Host, put func(key, why string)) {
	c.Paths.RootSocket = SystemRootSocket
	home := env["HOME"]
	// Under sudo -E, HOME may be somebody else's; nothing of ours goes there.
	if dbHome := h.Home(uid); !filepath.IsAbs(home) || dbHome != "" && !h.OwnedDir(home, uid) {
		home = dbHome
	}
	if home == "" {
		home = "/"
	}
	c.Home = filepath.Clean(home)
	xdg := func(name, fallback string) (string, string) {
		if v := env[name]; filepath.IsAbs(v) {
			return filepath.Join(v, "banger"), name
		}
		return filepath.Join(home, fallback, "banger"), "home directory"
	}
	xdgState, why := xdg("XDG_STATE_HOME", ".local/state")
	c.Paths.SSH = filepath.Join(xdgState, "ssh")
	put("ssh_dir", why)
	if uid == 0 {
		c.Paths.State, c.Paths.Runtime, c.Paths.Config = SystemState, SystemRuntime, "/etc/banger"
		for _, k := range []string{"state_dir", "runtime_dir", "config_dir"} {
			put(k, "root")
		}
		return
	}
	c.Paths.State = xdgState
	put("state_dir", why)
	c.Paths.Config, why = xdg("XDG_CONFIG_HOME", ".config")
	put("config_dir", why)
	// Where `banger system install` has made this user's daemon one of the host's.
	installed := h.OwnedDir(SystemState, uid)
	if installed {
		c.Paths.State = SystemState
		put("state_dir", "it is yours")
	}
	// While the host boots the unit has not made its directory yet.
	if installed && (h.OwnedDir(SystemRuntime, uid) || h.Exists(SystemUnit)) {
		c.Paths.Runtime = SystemRuntime
		put("runtime_dir", "it is yours")
		return
	}
	for _, dir := range []struct{ path, why string }{
		{env["XDG_RUNTIME_DIR"], "XDG_RUNTIME_DIR"},
		{"/run/user/" + strconv.Itoa(uid), "no XDG_RUNTIME_DIR"},
	} {
		// After su the variable may still name the directory of somebody else.
		if filepath.IsAbs(dir.path) && h.OwnedDir(dir.path, uid) {
			c.Paths.Runtime = filepath.Join(dir.path, "banger")
			put("runtime_dir", dir.why)
			return
		}
	}
	c.Paths.Runtime = "" // followState: below the state directory, wherever that ends up
}

// followState sets the directories that follow the state directory when it is
// moved away from derived, so that one variable is enough for a banger of its own.
func (c *Config) followState(derived string) {
	moved := c.Paths.State != derived
	if !c.Explicit("runtime_dir") && (moved || c.Paths.Runtime == "") {
		c.Paths.Runtime = filepath.Join(c.Paths.State, "run")
		c.sources["runtime_dir"] = source{FromDerived, "below state_dir"}
	}
	if !c.Explicit("ssh_dir") && moved {
		c.Paths.SSH = filepath.Join(c.Paths.State, "ssh")
		c.sources["ssh_dir"] = source{FromDerived, "below state_dir"}
	}
}

// maxSocket is how long a unix socket's path may be: sun_path has 108 bytes with its final zero (unix(7)).
const maxSocket = 107

// check refuses directories whose sockets would have too long a name, before anything fails at bind.
func (p Paths) check() error {
	deepest := p.VM(strings.Repeat("x", 12)).ControlSocket()
	for _, s := range []struct{ path, key, dir string }{
		{p.Socket(), "runtime_dir", p.Runtime},
		{deepest, "state_dir", p.State},
	} {
		if len(s.path) > maxSocket {
			return &Error{
				Message: fmt.Sprintf("%s is too long: sockets in it would have names of %d bytes, and %d is the most", s.dir, len(s.path), maxSocket),
				Hint:    Key{Name: s.key}.Env() + "=/a/shorter/directory",
			}
		}
	}
	return nil
}
