// Package initramfs writes banger's initramfs: the agent as /init, the kernel modules
// that a guest needs before its root is mounted, and the e2fsprogs programs that make,
// check and grow work disks inside the guest. Package image owns it; nobody else may
// import it, apart from tests that boot a guest.
package initramfs

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"

	"banger/api/agentapi"
)

// Spec says what goes into an initramfs. The same files give the same bytes.
type Spec struct {
	// Agent is the path of a static banger-agent.
	Agent string
	// ModulesDir is lib/modules/VERSION of the kernel; empty for a kernel that has
	// everything built in.
	ModulesDir string
	// ModuleNames are wanted modules; nil means DefaultModules. One that ends in "?" may
	// be missing from the kernel, any other must be there as a file or built in.
	ModuleNames []string
	// Tools are programs on the host; nil means DefaultTools.
	Tools []string
}

// DefaultModules are what a guest on virtio-mmio needs to reach its disks, network and
// channel: QEMU's microvm and Firecracker alike.
func DefaultModules() []string {
	return []string{
		"virtio_mmio", "virtio_blk", "virtio_net", "virtio_console", "ext4",
		"virtio_rng?", "vmw_vsock_virtio_transport?",
	}
}

// DefaultTools are where distributions put e2fsprogs.
func DefaultTools() []string { return []string{"/sbin/mke2fs", "/sbin/e2fsck"} }

// Build writes the initramfs as an uncompressed newc archive (kernel:
// Documentation/driver-api/early-userspace/buffer-format.rst).
func Build(w io.Writer, s Spec) error {
	if s.ModuleNames == nil {
		s.ModuleNames = DefaultModules()
	}
	if s.Tools == nil {
		s.Tools = DefaultTools()
	}
	a := newArchive(w)
	for _, d := range []string{"dev", "proc", "sys", "newroot", agentapi.InitramfsDir, agentapi.InitramfsModules,
		agentapi.InitramfsTools, path.Join(agentapi.InitramfsTools, agentapi.ToolLibraries)} {
		a.dir(d)
	}
	// The kernel opens this one for /init before devtmpfs is there.
	a.charDevice("dev/console", 5, 1)
	a.symlink("init", agentapi.InitramfsAgent)
	if err := addFile(a, agentapi.InitramfsAgent, s.Agent, 0o755); err != nil {
		return err
	}
	if err := addModules(a, s); err != nil {
		return err
	}
	if err := addTools(a, s.Tools); err != nil {
		return err
	}
	return a.close()
}

func addModules(a *archive, s Spec) error {
	mods := []module{}
	if s.ModulesDir != "" {
		var err error
		if mods, err = resolveModules(s.ModulesDir, s.ModuleNames); err != nil {
			return err
		}
	}
	index := []agentapi.BootModule{}
	for _, m := range mods {
		index = append(index, m.BootModule)
		if err := addFile(a, path.Join(agentapi.InitramfsModules, m.File), m.path, 0o644); err != nil {
			return err
		}
	}
	data, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("cannot encode module index: %w", err)
	}
	a.file(path.Join(agentapi.InitramfsModules, agentapi.ModuleIndex), data, 0o644)
	return nil
}

func addFile(a *archive, name, source string, mode uint32) error {
	data, err := os.ReadFile(source)
	if err != nil {
		return fmt.Errorf("cannot add to initramfs: %w", err)
	}
	a.file(name, data, mode)
	return nil
}
