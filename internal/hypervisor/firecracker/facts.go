package firecracker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"banger/api"
	"banger/internal/host"
)

// maxCPUs is the most that Firecracker gives a guest.
const maxCPUs = 32

// oldest is the first version that lets a loaded guest have another vsock socket than the frozen one (vsock_override).
const (
	oldestMajor = 1
	oldestMinor = 16
)

// facts are what was found out about this host and its Firecracker.
type facts struct {
	// Binary and Jailer are the programs, links followed, since the jailer names the jail by the program's own name.
	Binary, Jailer string
	Version        string
	Reason         string
	HostCPU        string
	stamp          string
}

func (f *facts) program() string { return filepath.Base(f.Binary) }

// oracle finds the facts once, and again when the programs have changed.
type oracle struct {
	o     Options
	turn  chan struct{} // filled while somebody asks; protects known
	known *facts
}

func newOracle(o Options) *oracle { return &oracle{o: o, turn: make(chan struct{}, 1)} }

func (o *oracle) ask(ctx context.Context) (*facts, error) {
	select {
	case o.turn <- struct{}{}:
		defer func() { <-o.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	f, err := o.find()
	if err != nil {
		return nil, err
	}
	f.stamp = stampOf(f.Binary) + stampOf(f.Jailer)
	if o.known != nil && o.known.Binary == f.Binary && o.known.Jailer == f.Jailer && o.known.stamp == f.stamp {
		return o.known, nil
	}
	if err := o.look(ctx, f); err != nil {
		return nil, err
	}
	o.known = f
	return f, nil
}

// find looks the programs up.
func (o *oracle) find() (*facts, error) {
	f := &facts{}
	for _, p := range []struct {
		name string
		path *string
	}{{o.o.Binary, &f.Binary}, {o.o.Jailer, &f.Jailer}} {
		path, err := o.o.Host.LookPath(p.name)
		if err == nil {
			path, err = filepath.EvalSymlinks(path)
		}
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err != nil {
			return nil, err
		}
		*p.path = path
	}
	return f, nil
}

// programs is find where what is there has to be found, even if the programs are gone.
func (o *oracle) programs() *facts {
	f, err := o.find()
	if err != nil {
		return &facts{Binary: filepath.Base(o.o.Binary)}
	}
	return f
}

func (o *oracle) look(ctx context.Context, f *facts) error {
	if err := o.o.Host.CanJail(); err != nil {
		return err
	}
	version, err := o.version(ctx, f.Binary)
	if err != nil {
		return err
	}
	jailer, err := o.version(ctx, f.Jailer)
	if err != nil {
		return err
	}
	if jailer != version {
		return api.Errorf(api.CodeUnsupported, "Firecracker %s and jailer %s are not of one release", version, jailer)
	}
	if !newEnough(version) {
		return api.Errorf(api.CodeUnsupported, "Firecracker %s is too old: %d.%d is the first that can give a clone a socket of its own", version, oldestMajor, oldestMinor).
			WithHint("set firecracker_bin to a newer one, or: banger run --hypervisor qemu")
	}
	if o.o.KVM != nil {
		if err := o.o.KVM(ctx); err != nil {
			return err
		}
	} else if _, err := os.Stat("/dev/kvm"); err != nil {
		return api.Errorf(api.CodeUnsupported, "Firecracker needs KVM: %w", err).WithHint("banger run --hypervisor qemu")
	}
	f.Version, f.Reason, f.HostCPU = version, "Firecracker "+version+" runs on KVM only", hostCPU()
	return nil
}

// outputTimeout bounds programs that only print something.
const outputTimeout = 20 * time.Second

// version reads "Firecracker v1.16.1" or "Jailer v1.16.1".
func (o *oracle) version(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, outputTimeout)
	defer cancel()
	var out bytes.Buffer
	if err := o.o.Host.Run(ctx, host.Command{Path: path, Args: []string{"--version"}, Stdout: &out}); err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(out.String(), "\n")
	_, v, ok := strings.Cut(line, " v")
	if !ok {
		return "", api.Errorf(api.CodeMissing, "%s does not tell a version: %.80q", path, line)
	}
	return strings.TrimSpace(v), nil
}

func newEnough(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	return err1 == nil && err2 == nil && (major > oldestMajor || major == oldestMajor && minor >= oldestMinor)
}

func stampOf(path string) string {
	fi, err := os.Stat(path)
	if err != nil {
		return "none"
	}
	return fmt.Sprintf("%d %d;", fi.Size(), fi.ModTime().UnixNano())
}

// hostCPU names the host's CPU: guests have its features, and none of them may be missing where a guest goes on.
func hostCPU() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	model, flags := "", ""
	for line := range strings.Lines(string(b)) {
		name, value, ok := strings.Cut(line, ":")
		if !ok && model != "" && flags != "" {
			break
		}
		switch strings.TrimSpace(name) {
		case "model name":
			model = strings.TrimSpace(value)
		case "flags":
			flags = strings.TrimSpace(value)
		}
	}
	sum := sha256.Sum256([]byte(flags))
	return fmt.Sprintf("%s, features %x", model, sum[:6])
}
