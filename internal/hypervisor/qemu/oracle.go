package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"banger/api"
	"banger/internal/host"
	"banger/internal/hypervisor/kvm"
)

// microvmCPUs is the most that QEMU's microvm machine takes.
const microvmCPUs = 288

// facts are what was found out about this host and its QEMU. They hold until the host boots
// again or the program is another; the file keeps them for the next daemon.
type facts struct {
	BootID  string   `json:"boot_id"`
	Binary  string   `json:"binary"`
	Stamp   string   `json:"stamp"` // the program file's size and time
	Version string   `json:"version"`
	Options []string `json:"machine_options"`
	MaxCPUs int      `json:"max_cpus"`
	TSCKHz  int64    `json:"tsc_khz"`
	// HostCPU is the model and what it can do; empty under emulation, where guests see nothing of it.
	HostCPU string `json:"host_cpu"`

	Accel  string `json:"accel"`
	Reason string `json:"reason"`
	Hint   string `json:"hint"`
	// KVMGroup may open /dev/kvm; 0 where everybody may, or only root.
	KVMGroup int `json:"kvm_group"`
	// Device is what the verdict was made of: another mode or owner of /dev/kvm makes it void.
	Device string `json:"device"`
	// Obstacle is what can be seen to be in the way of KVM without a probe; empty for nothing.
	Obstacle     string `json:"obstacle"`
	ObstacleHint string `json:"-"`
	// Asked is the accelerator that the configuration demanded, if any.
	Asked string `json:"asked"`
}

func (f *facts) knows(option string) bool { return slices.Contains(f.Options, option) }

// oracle finds the facts once.
type oracle struct {
	host    host.Host
	binary  string
	asked   string
	file    string
	kvm     *kvm.Device
	turn    chan struct{} // filled while somebody asks; protects known
	known   *facts
	measure func() int64
}

func newOracle(o Options) *oracle {
	return &oracle{
		host: o.Host, binary: o.Binary, asked: o.Accel, file: o.Paths.AccelVerdict(),
		kvm: o.KVM, turn: make(chan struct{}, 1), measure: measureTSC,
	}
}

// ask answers from memory, from the file, or by looking, in this order.
func (o *oracle) ask(ctx context.Context) (*facts, error) {
	select {
	case o.turn <- struct{}{}:
		defer func() { <-o.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	path, err := o.host.LookPath(o.binary)
	if err != nil {
		return nil, err
	}
	want := facts{BootID: o.host.BootID(), Binary: path, Stamp: stampOf(path), Asked: o.asked, Device: o.kvm.State()}
	want.Obstacle, want.ObstacleHint = o.kvm.Obstacle()
	if o.known.holds(&want) {
		return o.known, nil
	}
	if f := readFacts(o.file); f.holds(&want) {
		o.known = f
		return f, nil
	}
	f, err := o.look(ctx, want, readFacts(o.file))
	if err != nil {
		return nil, err
	}
	o.known = f
	// Only a saving of time is lost when this fails: the next daemon looks again.
	_ = writeFacts(o.file, f)
	return f, nil
}

// holds reports whether facts found earlier are about the present host and program.
func (f *facts) holds(want *facts) bool {
	return f != nil && want.BootID != "" && f.BootID == want.BootID && f.Binary == want.Binary &&
		f.Stamp == want.Stamp && f.Asked == want.Asked && f.Device == want.Device && f.Obstacle == want.Obstacle && f.Version != "" && f.Accel != ""
}

// look finds everything out; before are the facts of an earlier boot, nil for none.
func (o *oracle) look(ctx context.Context, f facts, before *facts) (*facts, error) {
	version, err := o.output(ctx, f.Binary, "--version")
	if err != nil {
		return nil, err
	}
	if f.Version = parseVersion(version); f.Version == "" {
		return nil, api.Errorf(api.CodeMissing, "%s does not tell a version: %.80q", f.Binary, version)
	}
	help, err := o.output(ctx, f.Binary, "-machine", "microvm,help")
	if err != nil {
		return nil, api.Errorf(api.CodeUnsupported, "this QEMU (%s) has no microvm machine: %w", f.Version, err)
	}
	f.Options = parseOptions(help)
	f.MaxCPUs = min(max(runtime.NumCPU(), 2), microvmCPUs)
	if err := o.decide(ctx, &f); err != nil {
		return nil, err
	}
	if f.Accel == "kvm" {
		f.HostCPU = o.kvm.CPU()
	} else {
		f.TSCKHz = steady(o.measure(), before)
	}
	return &f, nil
}

// steady keeps the figure of an earlier boot where the new one means the same counter: guests that were frozen
// then are tied to it. Two measurements differ by millionths, two hosts by more than a thousandth.
func steady(measured int64, before *facts) int64 {
	if before == nil || before.TSCKHz == 0 || measured == 0 {
		return measured
	}
	if d := measured - before.TSCKHz; max(d, -d)*10_000 > before.TSCKHz {
		return measured
	}
	return before.TSCKHz
}

// outputTimeout bounds programs that only print something.
const outputTimeout = 20 * time.Second

func (o *oracle) output(ctx context.Context, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, outputTimeout)
	defer cancel()
	var out bytes.Buffer
	err := o.host.Run(ctx, host.Command{Path: path, Args: args, Stdout: &out})
	return out.String(), err
}

// parseVersion takes "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)" out of QEMU's first line.
func parseVersion(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	_, v, ok := strings.Cut(line, "version ")
	if !ok {
		return ""
	}
	return strings.TrimSpace(v)
}

// parseOptions takes the names out of "  name=<type>  - text" lines.
func parseOptions(s string) []string {
	var names []string
	for line := range strings.Lines(s) {
		if name, _, ok := strings.Cut(strings.TrimSpace(line), "=<"); ok {
			names = append(names, name)
		}
	}
	return names
}

func stampOf(path string) string {
	fi, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d %d", fi.Size(), fi.ModTime().UnixNano())
}

// readFacts is nil where there are none that can be read.
func readFacts(path string) *facts {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var f facts
	if json.Unmarshal(b, &f) != nil {
		return nil
	}
	return &f
}

func writeFacts(path string, f *facts) error {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".accel-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(b, '\n'))
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// HostTSC is the rate of this machine's time stamp counter in kHz, 0 where it is not known: what emulated kernels are to be
// told, since on a busy machine they cannot find it out themselves.
func HostTSC() int64 { return measureTSC() }
