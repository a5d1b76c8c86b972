package oracle

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"banger/api"
	"banger/internal/host"
	"banger/internal/hypervisor/kvm"
)

// oldest is the first version that lets a loaded guest have another vsock socket than the frozen one (vsock_override).
const (
	oldestMajor = 1
	oldestMinor = 16
)

// outputTimeout bounds programs that only print something.
const outputTimeout = 20 * time.Second

// version reads "Firecracker v1.16.1" or "Jailer v1.16.1".
func (o *Oracle) version(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, outputTimeout)
	defer cancel()
	var out bytes.Buffer
	if err := o.o.Host.Run(ctx, host.Command{Path: path, Args: []string{"--version"}, Stdout: &out}); err != nil {
		return "", api.Errorf(api.CodeUnsupported, "%s does not start: %w", path, err).WithHint("%s", installHint)
	}
	line, _, _ := strings.Cut(out.String(), "\n")
	_, v, ok := strings.Cut(line, " v")
	if v = strings.TrimSpace(v); !ok || v == "" {
		return "", api.Errorf(api.CodeUnsupported, "%s tells no version: %.80q", path, line).WithHint("%s", installHint)
	}
	return v, nil
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

// probeMachine boots the probe guest by its PVH entry, with its console at Firecracker's own stdout. It is never told to end:
// what it says is the answer.
const probeMachine = `{"boot-source": {"kernel_image_path": "/proc/self/fd/3"}, "drives": [], "machine-config": {"vcpu_count": 1, "mem_size_mib": 32}}`

// fatal is how Firecracker's log names a KVM that has failed (src/vmm/src/vstate/vcpu.rs).
const fatal = "KVM_EXIT_"

// probe believes nothing of /dev/kvm but that an ordinary guest ran to its end on it, under this very program.
func (o *Oracle) probe(ctx context.Context, f Facts) error {
	machine, err := kvm.InMemory("machine", []byte(probeMachine))
	if err != nil {
		return err
	}
	defer machine.Close()
	c := host.Command{Path: f.Binary, Args: []string{"--no-api", "--config-file", "/proc/self/fd/4"}, Files: []*os.File{machine}}
	if err := o.o.KVM.Probe(ctx, o.o.Host, c, fatal); err != nil {
		return api.Errorf(api.CodeUnsupported, "Firecracker needs KVM, and a probe guest did not run on /dev/kvm (%w)", err).WithHint("%s", kvm.NestedHint)
	}
	return nil
}
