package doctor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"banger/api"
	"banger/internal/backend"
	"banger/internal/config"
	"banger/internal/host"
	"banger/internal/hypervisor"
)

var update = flag.Bool("update", false, "write testdata again")

// programsOf is a host on which all programs are installed but some.
type programsOf struct {
	host.Processes
	missing []string
}

func (p programsOf) LookPath(name string) (string, error) {
	if slices.Contains(p.missing, name) {
		return "", api.Errorf(api.CodeMissing, "cannot find the program %s", name)
	}
	return "/usr/bin/" + name, nil
}

// vmm is a hypervisor that only says what it can do.
type vmm struct {
	hypervisor.Hypervisor
	features hypervisor.Features
	err      error
}

func (v vmm) Name() string                                          { return "qemu" }
func (v vmm) Features(context.Context) (hypervisor.Features, error) { return v.features, v.err }

// only is a daemon with one hypervisor.
func only(h hypervisor.Hypervisor) backend.Set {
	return backend.NewSet("", backend.Backend{Hypervisor: h})
}

// healthy is a root daemon on a Debian 12 machine where all is as it should be.
func healthy() Options {
	return Options{
		Config: &config.Config{
			Paths: config.Paths{State: "/var/lib/banger", Runtime: "/run/banger"},
			Image: "debian", Kernel: "debian", Memory: config.GiB,
		},
		Host:     programsOf{},
		Backends: only(vmm{features: hypervisor.Features{Accel: "kvm", AccelReason: "a probe guest ran to its end", Version: "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"}}),
		Machine: Machine{
			Files: fstest.MapFS{
				"etc/os-release":                   file("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
				"proc/sys/kernel/osrelease":        file("6.1.0-40-amd64\n"),
				"proc/sys/net/ipv4/ip_forward":     file("0\n"),
				"proc/meminfo":                     file("MemTotal:       8000000 kB\nMemAvailable:    4194304 kB\n"),
				"dev/net/tun":                      &fstest.MapFile{Mode: fs.ModeDevice | fs.ModeCharDevice | 0o666},
				"sys/fs/cgroup/cgroup.controllers": file("cpuset cpu io memory pids\n"),
			},
			OS: "linux", Arch: "amd64", UID: 0, User: "root",
			Now:      func() time.Time { return time.Date(2025, 11, 22, 5, 3, 0, 0, time.UTC) },
			FreeDisk: func(string) (int64, error) { return 80 * config.GiB, nil },
			Owner:    func(string) (int, fs.FileMode, error) { return 0, fs.ModeDir | 0o711, nil },
		},
		Catalogue: func(context.Context) ([]api.Image, []api.Kernel, error) {
			return []api.Image{{Name: "debian"}}, []api.Kernel{{Name: "debian"}}, nil
		},
	}
}

// user makes it the daemon of an ordinary user.
func user(o Options) Options {
	o.Machine.UID, o.Machine.User = 1000, "ada"
	o.Config.Paths = config.Paths{State: "/home/ada/.local/state/banger", Runtime: "/run/user/1000/banger"}
	o.Machine.Owner = func(string) (int, fs.FileMode, error) { return 1000, fs.ModeDir | 0o700, nil }
	return with(o, map[string]string{
		"etc/subuid": "ada:100000:65536\n", "etc/subgid": "ada:100000:65536\n",
		"proc/sys/kernel/unprivileged_userns_clone": "1\n", "proc/sys/user/max_user_namespaces": "31000\n",
	})
}

func with(o Options, files map[string]string) Options {
	all := maps.Clone(o.Machine.Files.(fstest.MapFS))
	for name, text := range files {
		all[name] = file(text)
	}
	o.Machine.Files = all
	return o
}

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text), Mode: 0o644} }

func TestDoctor(t *testing.T) {
	tests := []struct {
		name   string
		usable bool
		host   func() Options
	}{
		{"root", true, healthy},
		{"user", true, func() Options { return user(healthy()) }},
		{"helped_user", true, func() Options {
			o := user(healthy())
			o.Rights = api.RightsHelped
			return o
		}},
		{"refused_user", true, func() Options {
			o := user(healthy())
			o.Refused = "no bangerd-root for this daemon: bangerd-root serves uid 1001 only, you are uid 1000"
			return o
		}},
		{"emulation", true, func() Options {
			o := healthy()
			o.Backends = only(vmm{features: hypervisor.Features{Accel: "tcg", Version: "7.2.22",
				AccelReason: "/proc/cpuinfo shows neither vmx nor svm", AccelHint: "sudo modprobe kvm_intel"}})
			return o
		}},
		{"empty_host", false, func() Options {
			o := healthy()
			o.Host = programsOf{missing: []string{"qemu-img", "mke2fs", "fakeroot", "mmdebstrap", "dpkg-deb", "busybox", "ssh", "nft", "passt"}}
			o.Backends = only(vmm{err: api.Errorf(api.CodeMissing, "cannot find the program qemu-system-x86_64").WithHint("sudo apt-get install qemu-system-x86")})
			o.Machine.Files = fstest.MapFS{}
			o.Machine.Owner = func(string) (int, fs.FileMode, error) { return 0, 0, fs.ErrNotExist }
			o.Catalogue = func(context.Context) ([]api.Image, []api.Kernel, error) { return nil, nil, nil }
			return o
		}},
		{"restricted_user", false, func() Options {
			o := user(healthy())
			o.Host = programsOf{missing: []string{"newuidmap", "passt"}}
			o.Machine.Owner = func(string) (int, fs.FileMode, error) { return 0, fs.ModeDir | 0o700, nil }
			return with(o, map[string]string{
				"etc/subuid": "bob:100000:65536\nada:165536:100\n", "etc/subgid": "",
				"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
			})
		}},
		{"poor_host", false, func() Options {
			o := with(healthy(), map[string]string{"proc/meminfo": "MemAvailable:    131072 kB\n"})
			o.Machine.FreeDisk = func(string) (int64, error) { return 100 * config.MiB, nil }
			o.Machine.Owner = func(string) (int, fs.FileMode, error) { return 0, fs.ModeDir | 0o777, nil }
			o.Machine.Now = func() time.Time { return time.Unix(0, 0) }
			o.Guests = func(context.Context) map[string]time.Duration {
				return map[string]time.Duration{"late": -3 * time.Minute, "right": 30 * time.Millisecond}
			}
			o.Catalogue = func(context.Context) ([]api.Image, []api.Kernel, error) {
				return nil, nil, errors.New("disk I/O error")
			}
			return o
		}},
		{"tight_host", true, func() Options {
			o := with(healthy(), map[string]string{"proc/meminfo": "MemAvailable:    819200 kB\n"})
			o.Machine.FreeDisk = func(string) (int64, error) { return 2 * config.GiB, nil }
			o.Network = func(context.Context) []api.Check {
				return []api.Check{warn("docker", "iptables -I DOCKER-USER -j ACCEPT", "drops what it does not know")}
			}
			o.Guests = func(context.Context) map[string]time.Duration { return map[string]time.Duration{"right": 0} }
			return o
		}},
		{"other_system", false, func() Options {
			o := healthy()
			o.Machine.OS, o.Machine.Arch = "darwin", "arm64"
			return o
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			checks := Run(t.Context(), tt.host())
			if got := Usable(checks); got != tt.usable {
				t.Errorf("usable: %v, want %v", got, tt.usable)
			}
			golden(t, tt.name+".txt", text(checks))
		})
	}
}

func text(checks []api.Check) string {
	var b strings.Builder
	for _, c := range checks {
		fmt.Fprintf(&b, "%-4s  %s: %s\n", c.Verdict, c.Name, c.Detail)
		if c.Hint != "" {
			fmt.Fprintf(&b, "      %s\n", c.Hint)
		}
	}
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (go test -update writes it again):\n got:\n%s\nwant:\n%s", path, got, want)
	}
}

// TestThisMachine runs every check on the real machine: it must answer, and change nothing.
func TestThisMachine(t *testing.T) {
	o := healthy()
	o.Machine = ThisMachine()
	state := filepath.Join(t.TempDir(), "not", "there")
	o.Config.Paths = config.Paths{State: state, Runtime: state}
	checks := Run(t.Context(), o)
	for _, c := range checks {
		if c.Name == "" || c.Detail == "" || !slices.Contains([]string{api.VerdictOK, api.VerdictWarn, api.VerdictFail}, c.Verdict) {
			t.Errorf("incomplete: %+v", c)
		}
		if c.Name == "disk" && !strings.Contains(c.Detail, "free below") {
			t.Errorf("disk: %s", c.Detail)
		}
	}
	if _, err := os.Stat(state); !errors.Is(err, fs.ErrNotExist) {
		t.Error("doctor made the state directory")
	}
}
