package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// testHost owns the directories in owned, for any uid.
func testHost(owned ...string) *Host {
	return &Host{
		CPUs: 8, MemoryBytes: 32 * GiB,
		Home:     func(uid int) string { return map[int]string{0: "/root", 1000: "/home/u"}[uid] },
		OwnedDir: func(path string, uid int) bool { return slices.Contains(owned, path) },
		Exists:   func(path string) bool { return slices.Contains(owned, path) },
	}
}

func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(file, []byte("memory = \"2G\"\ncpus = 3\nstop_timeout = \"30s\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(Inputs{
		Flags:   map[string]string{"memory": "4G"},
		Environ: []string{"HOME=/home/u", "BANGER_CONFIG_DIR=" + dir, "BANGER_MEMORY=3G", "BANGER_CPUS=5", "BANGER_KERNEL="},
		UID:     1000, Host: testHost("/home/u"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Value{
		"memory":       {Value: "4G", Source: FromFlag, Detail: "--memory"},
		"cpus":         {Value: "5", Source: FromEnv, Detail: "BANGER_CPUS"},
		"stop_timeout": {Value: "30s", Source: FromFile, Detail: file},
		"kernel":       {Value: "debian", Source: FromDerived, Detail: "default"},
		"net":          {Value: "user", Source: FromDerived, Detail: "not root"},
	}
	for _, v := range c.Values() {
		w, ok := want[v.Key]
		if ok && (v.Value != w.Value || v.Source != w.Source || v.Detail != w.Detail) {
			t.Errorf("%s = %s from %s (%s), want %s from %s (%s)", v.Key, v.Value, v.Source, v.Detail, w.Value, w.Source, w.Detail)
		}
	}
	if c.Memory != 4*GiB || c.CPUs != 5 || c.StopTimeout != 30*time.Second {
		t.Errorf("typed values: %d %d %s", c.Memory, c.CPUs, c.StopTimeout)
	}
	if !c.Explicit("stop_timeout") || c.Explicit("kernel") {
		t.Error("Explicit mixes up file and derived")
	}
}

// TestEveryKey: every key can be set by its variable, and shows what was set.
func TestEveryKey(t *testing.T) {
	sample := map[string]string{
		"image": "i", "kernel": "k", "cpus": "3", "memory": "300M", "disk_size": "9G", "root_size": "7G", "net": "none",
		"accel": "tcg", "disk_driver": "clone", "bridge": "br9", "subnet": "10.9.0.0/24", "dns_address": "127.0.0.1:53",
		"ready_timeout": "9s", "on_host_shutdown": "stop", "host_shutdown_timeout": "5m0s", "idle_suspend": "10m0s", "stop_timeout": "8s", "state_dir": "/s", "runtime_dir": "/r", "ssh_dir": "/h", "root_socket": "/q/s", "config_dir": "/c",
		"uid_base": "5000", "uid_count": "9", "qemu_binary": "/q", "mirror": "http://m/", "log_level": "debug",
		"hypervisor": "qemu", "firecracker_bin": "/f", "jailer_bin": "/j", "pool": "5", "pool_reserve": "3G", "session_log": "4M", "git_identity": "none",
	}
	environ := []string{"HOME=/home/u"}
	for _, k := range Keys() {
		if k.setTables != nil {
			continue
		}
		environ = append(environ, k.Env()+"="+sample[k.Name])
	}
	c, err := Load(Inputs{Environ: environ, UID: 1000, Host: testHost("/home/u")})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range c.Values() {
		if v.Key == "file_sync" { // in the file alone: TestFileSync
			continue
		}
		if v.Value != sample[v.Key] || v.Source != FromEnv {
			t.Errorf("%s = %q from %s, want %q", v.Key, v.Value, v.Source, sample[v.Key])
		}
		if v.Help == "" {
			t.Errorf("%s has no help", v.Key)
		}
	}
}

func TestMistakes(t *testing.T) {
	long := "/" + strings.Repeat("d", 100)
	for _, tt := range []struct{ name, file, env, want, hint string }{
		{"unknown key", "memry = \"1G\"", "", `unknown key "memry"`, `did you mean "memory"?`},
		{"unknown key far off", "quux_baz_zot = 1", "", `unknown key "quux_baz_zot"`, "banger config show"},
		{"unknown table", "[vm]\ncpus = 1", "", `unknown key "vm.cpus"`, `did you mean "cpus"?`},
		{"list", "cpus = [1]", "", "cpus is not a single value", ""},
		{"bad toml", "cpus = \n", "", "line 1", ""},
		{"bad size in file", "memory = \"lots\"", "", `memory (from `, ""},
		{"bad size in env", "", "BANGER_MEMORY=-1G", `memory (from BANGER_MEMORY): "-1G" is not a size`, ""},
		{"cpus", "", "BANGER_CPUS=0", "not a number from 1 to 64", ""},
		{"idle_suspend", "", "BANGER_IDLE_SUSPEND=never", `"never" is not a duration`, ""},
		{"net", "", "BANGER_NET=wifi", `"wifi" is neither bridge, user nor none`, ""},
		{"subnet host bits", "", "BANGER_SUBNET=10.0.0.1/16", "10.0.0.0/16", ""},
		{"relative dir", "", "BANGER_STATE_DIR=here", "not an absolute path", ""},
		{"bridge name", "", "BANGER_BRIDGE=a-name-much-too-long", "network interface", ""},
		{"config_dir in file", "config_dir = \"/x\"", "", "cannot be set in the file", "BANGER_CONFIG_DIR"},
		{"long state", "", "BANGER_STATE_DIR=" + long, "too long", "BANGER_"},
		{"long runtime", "", "BANGER_RUNTIME_DIR=" + long, "too long", "BANGER_RUNTIME_DIR"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(tt.file), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(Inputs{Environ: []string{"HOME=/home/u", "BANGER_CONFIG_DIR=" + dir, tt.env}, UID: 1000, Host: testHost("/home/u")})
			var ce *Error
			if !errors.As(err, &ce) {
				t.Fatalf("got %v, want a *Error", err)
			}
			if !strings.Contains(ce.Message, tt.want) || !strings.Contains(ce.Hint, tt.hint) {
				t.Errorf("got %q (hint %q), want %q (hint %q)", ce.Message, ce.Hint, tt.want, tt.hint)
			}
		})
	}
}

func TestPaths(t *testing.T) {
	for _, tt := range []struct {
		name  string
		uid   int
		env   []string
		owned []string
		want  Paths
	}{
		{"root", 0, []string{"HOME=/root"}, []string{"/root"},
			Paths{"/var/lib/banger", "/run/banger", "/etc/banger", "/root/.local/state/banger/ssh", SystemRootSocket}},
		{"root with a user's HOME", 0, []string{"HOME=/home/u"}, nil,
			Paths{"/var/lib/banger", "/run/banger", "/etc/banger", "/root/.local/state/banger/ssh", SystemRootSocket}},
		{"user in a session", 1000, []string{"HOME=/home/u", "XDG_RUNTIME_DIR=/run/user/1000"}, []string{"/home/u", "/run/user/1000"},
			Paths{"/home/u/.local/state/banger", "/run/user/1000/banger", "/home/u/.config/banger", "/home/u/.local/state/banger/ssh", SystemRootSocket}},
		{"user with XDG", 1000, []string{"HOME=/home/u", "XDG_STATE_HOME=/s", "XDG_CONFIG_HOME=/c", "XDG_RUNTIME_DIR=/r"}, []string{"/home/u", "/r"},
			Paths{"/s/banger", "/r/banger", "/c/banger", "/s/banger/ssh", SystemRootSocket}},
		{"relative XDG is ignored", 1000, []string{"HOME=/home/u", "XDG_STATE_HOME=s", "XDG_RUNTIME_DIR=r"}, []string{"/home/u", "r"},
			Paths{"/home/u/.local/state/banger", "/home/u/.local/state/banger/run", "/home/u/.config/banger", "/home/u/.local/state/banger/ssh", SystemRootSocket}},
		{"cron: no XDG_RUNTIME_DIR, session directory there", 1000, []string{"HOME=/home/u"}, []string{"/home/u", "/run/user/1000"},
			Paths{"/home/u/.local/state/banger", "/run/user/1000/banger", "/home/u/.config/banger", "/home/u/.local/state/banger/ssh", SystemRootSocket}},
		{"after su: XDG_RUNTIME_DIR of somebody else", 1000, []string{"HOME=/home/u", "XDG_RUNTIME_DIR=/run/user/7"}, []string{"/home/u"},
			Paths{"/home/u/.local/state/banger", "/home/u/.local/state/banger/run", "/home/u/.config/banger", "/home/u/.local/state/banger/ssh", SystemRootSocket}},
		{"a state directory of its own", 0, []string{"HOME=/root", "BANGER_STATE_DIR=/t/s"}, []string{"/root"},
			Paths{"/t/s", "/t/s/run", "/etc/banger", "/t/s/ssh", SystemRootSocket}},
		{"installed for the user", 1000, []string{"HOME=/home/u", "XDG_RUNTIME_DIR=/run/user/1000"}, []string{"/home/u", "/run/user/1000", "/var/lib/banger", "/run/banger"},
			Paths{"/var/lib/banger", "/run/banger", "/home/u/.config/banger", "/home/u/.local/state/banger/ssh", SystemRootSocket}},
		{"installed for the user, as the host boots", 1000, []string{"HOME=/home/u", "XDG_RUNTIME_DIR=/run/user/1000"}, []string{"/home/u", "/run/user/1000", "/var/lib/banger", SystemUnit},
			Paths{"/var/lib/banger", "/run/banger", "/home/u/.config/banger", "/home/u/.local/state/banger/ssh", SystemRootSocket}},
		{"no longer installed, and its machines are still there", 1000, []string{"HOME=/home/u", "XDG_RUNTIME_DIR=/run/user/1000"}, []string{"/home/u", "/run/user/1000", "/var/lib/banger"},
			Paths{"/var/lib/banger", "/run/user/1000/banger", "/home/u/.config/banger", "/home/u/.local/state/banger/ssh", SystemRootSocket}},
		{"no HOME", 1000, nil, nil,
			Paths{"/home/u/.local/state/banger", "/home/u/.local/state/banger/run", "/home/u/.config/banger", "/home/u/.local/state/banger/ssh", SystemRootSocket}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Load(Inputs{Environ: tt.env, UID: tt.uid, Host: testHost(tt.owned...)})
			if err != nil {
				t.Fatal(err)
			}
			if c.Paths != tt.want {
				t.Errorf("got  %+v\nwant %+v", c.Paths, tt.want)
			}
		})
	}
}

func TestUnknownEnv(t *testing.T) {
	c, err := Load(Inputs{Environ: []string{"HOME=/home/u", "BANGER_MEMROY=1G", "BANGER_TEST_NO_SKIP=1", "OTHER=1"}, UID: 1000, Host: testHost("/home/u")})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.UnknownEnv, []string{"BANGER_MEMROY"}) {
		t.Errorf("got %v", c.UnknownEnv)
	}
}
