// Package oracle says whether Firecracker can run guests on this host, before anything is created: the rights, the disks, the two
// programs, and a KVM on which a probe guest really ran. Only firecracker imports it.
package oracle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"banger/api"
	"banger/internal/durable"
	"banger/internal/host"
	"banger/internal/hypervisor/kvm"
)

// Options are what New needs; all but Binary, Jailer and CanAttach must be set.
type Options struct {
	Host interface {
		host.Processes
		CanJail(binary, jailer string) error
	}
	// Binary and Jailer are names or paths. An empty Binary means firecracker; an empty Jailer the one beside Binary, whose name has
	// "jailer" for "firecracker", or else that of PATH.
	Binary, Jailer string
	// CanAttach is disk.Attacher's.
	CanAttach func() error
	KVM       *kvm.Device
	// File keeps the verdict of the probe for the next daemon.
	File string
}

// Facts are what was found out about this host and its Firecracker.
type Facts struct {
	// Binary and Jailer are the programs' absolute paths, links followed.
	Binary, Jailer string
	// Version is both's: "1.16.1".
	Version string
	// Reason says in a clause why KVM is believed. Caveat says what could not be made sure; empty for nothing.
	Reason, Caveat string
	// HostCPU is the model and what it can do.
	HostCPU string
	// KVMGroup may open /dev/kvm; 0 where everybody may.
	KVMGroup int
}

// Oracle finds the facts once, and again when something they depend on has changed. Safe for concurrent use.
type Oracle struct {
	o     Options
	turn  chan struct{} // filled while somebody asks; protects known
	known *verdict
}

// New asks nothing yet.
func New(o Options) *Oracle {
	if o.Binary == "" {
		o.Binary = "firecracker"
	}
	return &Oracle{o: o, turn: make(chan struct{}, 1)}
}

// verdict is what costs something to find out, and what it was made of.
type verdict struct {
	// Of is the host's boot, /dev/kvm, and both programs' sizes and times.
	Of    string `json:"of"`
	Facts Facts  `json:"facts"`
	// Problem is why Firecracker cannot be used, Hint what would mend that; empty where it can.
	Problem string `json:"problem"`
	Hint    string `json:"hint"`
}

// Ask answers from memory, from the file, or by looking, in this order. The error says what is in the way and what would mend it: its code is
// missing_dependency, permission_denied or unsupported. Those that a command of the user changes are looked at each time.
func (o *Oracle) Ask(ctx context.Context) (Facts, error) {
	select {
	case o.turn <- struct{}{}:
		defer func() { <-o.turn }()
	case <-ctx.Done():
		return Facts{}, context.Cause(ctx)
	}
	if reason, hint := o.o.KVM.Obstacle(); reason != "" {
		return Facts{}, api.Errorf(api.CodeUnsupported, "Firecracker needs KVM: %s", reason).WithHint("%s", hint)
	}
	f, err := o.programs()
	if err != nil {
		return f, err
	}
	if err := o.o.Host.CanJail(f.Binary, f.Jailer); err != nil {
		return f, err
	}
	if o.o.CanAttach != nil {
		if err := o.o.CanAttach(); err != nil {
			return f, err
		}
	}
	of := strings.Join([]string{o.o.Host.BootID(), o.o.KVM.State(), f.Binary, stampOf(f.Binary), f.Jailer, stampOf(f.Jailer)}, " ")
	if o.known == nil || o.known.Of != of {
		if o.known = readVerdict(o.o.File); o.known == nil || o.known.Of != of {
			o.known = nil
			v, err := o.look(ctx, f)
			if err != nil {
				return f, err
			}
			v.Of, o.known = of, v
			o.keep(v)
		}
	}
	if o.known.Problem != "" {
		return f, api.Errorf(api.CodeUnsupported, "%s", o.known.Problem).WithHint("%s", o.known.Hint)
	}
	return o.known.Facts, nil
}

// look finds out what does not change by itself. Its error is of having been kept from it.
func (o *Oracle) look(ctx context.Context, f Facts) (*verdict, error) {
	f.HostCPU, f.KVMGroup = o.o.KVM.CPU(), o.o.KVM.Group()
	f.Reason = "a probe guest ran to its end under Firecracker on /dev/kvm"
	v := &verdict{}
	err := o.inspect(ctx, &f)
	if err == nil {
		err = o.probe(ctx, f)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		e := api.AsError(err)
		v.Problem, v.Hint = e.Message, e.Hint
	}
	v.Facts = f
	return v, nil
}

// inspect looks at the programs.
func (o *Oracle) inspect(ctx context.Context, f *Facts) error {
	var err error
	if f.Version, err = o.version(ctx, f.Binary); err != nil {
		return err
	}
	if !newEnough(f.Version) {
		return api.Errorf(api.CodeUnsupported, "%s is Firecracker %s; %d.%d is the first that gives a clone a socket and a tap of its own", f.Binary, f.Version, oldestMajor, oldestMinor).
			WithHint("%s", installHint)
	}
	jailer, err := o.version(ctx, f.Jailer)
	if err != nil {
		return err
	}
	if jailer != f.Version {
		return api.Errorf(api.CodeUnsupported, "%s is of version %s, but %s of %s", f.Jailer, jailer, f.Binary, f.Version).WithHint("%s", installHint)
	}
	b, err := readFile(f.Binary)
	if err != nil {
		return api.Errorf(api.CodeUnsupported, "cannot look at Firecracker: %w", err)
	}
	if !b.static {
		return api.Errorf(api.CodeUnsupported, "%s needs libraries, which there are none of in a jail: it was not built for musl", f.Binary).WithHint("%s", installHint)
	}
	switch err := b.seccomp.check(); {
	case errors.Is(err, errAllowAll):
		return api.Errorf(api.CodeUnsupported, "%s has no seccomp filters: those in it allow every system call, as in a debug build or one that is not for musl", f.Binary).
			WithHint("%s", installHint)
	case err != nil:
		f.Caveat = err.Error() + ": none was found in " + f.Binary
	}
	return nil
}

// installHint: Debian has no package of it. This is the version that banger is tested with.
const installHint = "curl -fsSL https://github.com/firecracker-microvm/firecracker/releases/download/v1.16.1/firecracker-v1.16.1-x86_64.tgz" +
	" | sudo tar -xzC /usr/local/bin --strip-components=1 --transform='s/-v1.16.1-x86_64$//' --wildcards '*/firecracker-v*64' '*/jailer-v*64'"

// programs finds both.
func (o *Oracle) programs() (f Facts, err error) {
	if f.Binary, err = o.find(o.o.Binary); err != nil {
		return f, missing("firecracker", err)
	}
	if o.o.Jailer != "" {
		f.Jailer, err = o.find(o.o.Jailer)
	} else if f.Jailer, err = o.find(beside(f.Binary)); err != nil {
		f.Jailer, err = o.find("jailer")
	}
	return f, missing("jailer", err)
}

func missing(name string, err error) error {
	if err == nil {
		return nil
	}
	return api.Errorf(api.CodeMissing, "%s is not installed: %w", name, err).WithHint("%s", installHint)
}

// beside is where the jailer is in a release: firecracker-v1.16.1-x86_64 has a jailer-v1.16.1-x86_64 beside it.
func beside(binary string) string {
	return filepath.Join(filepath.Dir(binary), strings.Replace(filepath.Base(binary), "firecracker", "jailer", 1))
}

func (o *Oracle) find(name string) (string, error) {
	path, err := o.o.Host.LookPath(name)
	if err != nil {
		return "", err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

func stampOf(path string) string {
	fi, err := os.Stat(path)
	if err != nil {
		return "none"
	}
	return fmt.Sprintf("%d %d", fi.Size(), fi.ModTime().UnixNano())
}

// readVerdict is nil where there is none that can be read.
func readVerdict(path string) *verdict {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var v verdict
	if json.Unmarshal(text, &v) != nil {
		return nil
	}
	return &v
}

// keep saves the next daemon the time; nothing else is lost when it fails.
func (o *Oracle) keep(v *verdict) {
	if text, err := json.MarshalIndent(v, "", "  "); err == nil {
		_ = durable.ReplaceFile(o.o.File, append(text, '\n'), 0o600)
	}
}
